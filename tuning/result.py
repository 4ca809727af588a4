"""What came of a search, as `result.json` in its folder keeps it and a report shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue

from store.search import Way
from tuning.plan import SearchPlan
from tuning.trial import Rung


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tried(_Kept):
    """A trial as far as it came. `settings` is where it differs from the declaration."""

    trial: int
    key: str
    settings: dict[str, JsonValue]
    rungs: tuple[Rung, ...]

    @property
    def loss(self) -> float:
        return self.rungs[-1].loss

    @property
    def words(self) -> str:
        return worded(self.settings)


@dataclass(frozen=True, slots=True)
class Searched:
    """All trials that reached a rung, as far as they came, and of the others why they did not, or did not go on."""

    tried: list[Tried]
    failed: tuple[str, ...] = ()


class Cost(_Kept):
    """What answering by a way costs: trained numbers of the network, and the median time for one row, in seconds, by ONNX
    Runtime on one thread."""

    parameters: int
    latency_s: float


class Placed(_Kept):
    """A trial on the leaderboard. `cost` is measured of those that came to the last rung; `front`: of these none has both a
    lower loss and a lower latency."""

    tried: Tried
    cost: Cost | None = None
    front: bool = False


class Heldout(_Kept):
    """Progressive loss, the mean over the `judged` rows of the stretch that no trial has seen; `production` learned as
    production does, both having learned all before."""

    judged: int
    winner: float
    production: float


class Result(_Kept):
    """A search that ended.

    Args:
        rungs: where trials were compared, in micro-batches; the last is all that trials saw, of `batches`.
        since, until: when the stretch's first and last newest labels came, in seconds since 1970.
        production: the declaration's own way, over the same rungs.
        leaderboard: those that came furthest first, and of these the lowest loss first.
        importance: by setting, how much worse the loss at the first rung is foretold without it, as a share of all; from
            permutations of a random forest (Breiman 2001); empty where there are too few trials.
        failed: why trials failed, one text for each, such as for settings that no model can learn with.
        winner: the first of the leaderboard, and `way` how it learns.
        version: on the plan's line, learned over all of the stretch; 0 if none was published.
    """

    plan: SearchPlan
    outcomes: int
    batches: int
    rungs: tuple[int, ...]
    since: float
    until: float
    production: Tried
    leaderboard: tuple[Placed, ...]
    importance: dict[str, float]
    way: Way
    heldout: Heldout
    failed: tuple[str, ...] = ()
    version: int = 0

    @property
    def winner(self) -> Tried:
        return self.leaderboard[0].tried

    @property
    def better(self) -> bool:
        """Whether the winner beats the declared way on what no trial has seen; not so if either loss is no number."""
        return self.heldout.winner < self.heldout.production

    def save(self, path: Path) -> None:
        draft = path.with_suffix(".new")
        draft.write_text(self.model_dump_json(indent=1))
        draft.replace(path)


def worded(settings: Mapping[str, JsonValue]) -> str:
    """Return settings as people read them, without the part that they belong to."""
    return ", ".join(f"{name.partition('.')[2]}={_value(value)}" for name, value in settings.items())


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("'", "")
