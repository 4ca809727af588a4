"""The books of an interleaving: each unit's lists and clicks, and, when its window closes, who won it."""

from collections import deque
from typing import Any

from router.accounts.scores import number_of
from router.interleaving import Draft, Duel, Duels, credit, total
from store.policy import Experiment
from store.records import Failures, Outcome, Predictions, Rankings, Shadows
from store.spec import ModelRecord

_EARLY = 20_000
_MAX_UNITS = 1_000_000
_KEPT_S = 30 * 86_400.0
_AT, _DRAFTS, _CLOSED = range(3)
_ITEMS, _TEAMS, _ONCE, _CLICKED, _UNIT = range(5)


class DuelAccount:
    """A unit is one outcome: the ranker with more credit over all of the unit's lists has won it.

    Attributes:
        rankers: their names, the baseline first. `units`: seen; `lists`: shown to them; `failed`: lists without all rankers.
    """

    def __init__(self, experiment: Experiment, record: ModelRecord, state: dict[str, Any] | None = None) -> None:
        self.name = experiment.name
        self._configure(experiment)
        self._succeeded = record.succeeded
        state = state or {}
        others = [arm for arm in experiment.shares if arm != experiment.baseline]
        self.rankers: list[str] = state.get("rankers") or [experiment.baseline, *others]
        self.duels = Duels.among(len(self.rankers))
        if "pairs" in state:
            self.duels = Duels({(a, b): Duel(*counts) for a, b, counts in state["pairs"]})
        self.lists: int = state.get("lists", 0)
        self.failed: int = state.get("failed", 0)
        self._epochs: dict[int, bool] = dict.fromkeys(state.get("epochs", ()), True)
        self._units: dict[str, list[Any]] = state.get("units") or {}
        self._drafts: dict[str, list[Any]] = state.get("drafts") or {}
        self._early: dict[str, list[str]] = state.get("early") or {}
        self._seen: float = state.get("seen", 0.0)
        self._open = deque(unit for unit, row in self._units.items() if not row[_CLOSED])
        self._kept = deque(unit for unit, row in self._units.items() if row[_CLOSED])

    def pack(self) -> dict[str, Any]:
        pairs = [(a, b, (d.wins_a, d.wins_b, d.ties, d.none)) for (a, b), d in self.duels.pairs.items()]
        return {
            "rankers": self.rankers,
            "pairs": pairs,
            "lists": self.lists,
            "failed": self.failed,
            "epochs": list(self._epochs),
            "units": self._units,
            "drafts": self._drafts,
            "early": self._early,
            "seen": self._seen,
        }

    @property
    def units(self) -> int:
        return len(self._units)

    def _configure(self, experiment: Experiment) -> None:
        self._window_s = experiment.judging.window_s
        self._labels_s = experiment.judging.labels_s

    def begin(self, experiment: Experiment, epoch: int) -> None:
        self._configure(experiment)
        self._epochs[epoch] = True

    def predictions(self, record: Predictions) -> None:
        """The items' own predictions say nothing that the list does not."""

    def shadows(self, record: Shadows) -> None:
        """Nobody shadows an interleaved list."""

    def failures(self, record: Failures) -> None:
        self.failed += self.name in record.experiments

    def rankings(self, record: Rankings) -> None:
        if record.experiment != self.name or record.epoch not in self._epochs:
            return
        at = record.event_time if record.event_time is not None else record.at
        self._seen = max(self._seen, at)
        row = self._units.get(record.unit)
        if row is None:
            if len(self._units) >= _MAX_UNITS:
                return
            row = self._units[record.unit] = [at, [], False]
            self._open.append(record.unit)
        if row[_CLOSED] or at > row[_AT] + self._window_s:
            return
        # Teams are numbered by the rankers of the list; a variant that is not one of this experiment's credits nobody.
        places = [self.rankers.index(name) if name in self.rankers else -1 for name in record.rankers]
        teams = [places[team] if team >= 0 else -1 for team in record.teams]
        draft = self._drafts.get(record.id)
        if draft is None:
            self.lists += 1
            row[_DRAFTS].append(record.id)
            clicked = self._early.pop(record.id, [])
            self._drafts[record.id] = [list(record.items), teams, record.once, clicked, record.unit]
        elif draft[_UNIT] == record.unit:
            draft[_ITEMS] += record.items
            draft[_TEAMS] += teams

    def outcome(self, outcome: Outcome) -> None:
        """Credit goes to what somebody said was a success; a label that stands in for silence is none."""
        ranking, mark, item = outcome.id.partition("#")
        if not outcome.final or not mark or outcome.kind == "default":
            return
        draft = self._drafts.get(ranking)
        # Early: read before its list, or of somebody else's.
        clicked = draft[_CLICKED] if draft is not None else self._early.get(ranking, [])
        if item in clicked:
            clicked.remove(item)  # what it said before is replaced
        if self._succeeded(number_of(outcome.label)):
            clicked.append(item)
            if draft is None:
                self._early[ranking] = clicked
                if len(self._early) > _EARLY:
                    del self._early[next(iter(self._early))]

    def close(self, now: float | None) -> None:
        now = self._seen if now is None else now
        while self._open and self._units[self._open[0]][_AT] + self._window_s + self._labels_s <= now:
            unit = self._open.popleft()
            row = self._units[unit]
            credits = [self._credit(self._drafts.pop(id_)) for id_ in row[_DRAFTS]]
            self.duels = self.duels.add(total(credits))
            self._units[unit] = [row[_AT], [], True]
            self._kept.append(unit)
        while self._kept and self._units[self._kept[0]][_AT] + max(_KEPT_S, self._window_s + self._labels_s) < now:
            del self._units[self._kept.popleft()]

    def _credit(self, packed: list[Any]) -> tuple[float, ...]:
        draft = Draft(tuple(packed[_ITEMS]), tuple(packed[_TEAMS]), 0, len(self.rankers), packed[_ONCE])
        return credit(draft, packed[_CLICKED])

    def units_of_step(self, experiment: Experiment) -> int:
        return len(self._units)
