"""A stretch of what a model learned, micro-batch by micro-batch as production cut it, for as many learners as like.

One file holds it, which the processes of a search map into their memory: they need no store, and share its pages.

    magic | length of the header, 8 bytes | header: JSON | the micro-batches, each as an entry of the outcome stream
"""

import math
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from store.policy import MAIN
from store.protocols import START, Store, Version, position_key
from store.records import Outcome, Outcomes, pack_outcomes, unpack_outcomes
from store.search import Way
from store.spec import ModelRecord
from trainer.learner import Learner
from trainer.lineage.environment import way_of
from trainer.lineage.history import batches
from trainer.lineage.path import micro_batches
from trainer.targets import progressive as judged_by
from tuning.errors import TuningError

_MAGIC = b"tidemill replay 1\n"


class Batch(BaseModel):
    """What is on record of a micro-batch. `seed` is the version's log position, `refusal` why its result was taken back, empty
    if it was not; `at` is when its newest label came, by the model's clock, in seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    seed: str
    outcomes: int
    at: float
    refusal: str = ""
    offset: int = 0
    size: int = 0


class _Header(BaseModel):
    model: ModelRecord
    batches: tuple[Batch, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """A micro-batch that a learner scored and then learned. `loss` is the mean over `judged` rows, NaN without any; `rejected`
    says why the learner is as it was before, empty if it learned."""

    outcomes: list[Outcome]
    loss: float
    judged: int
    rejected: str = ""


class Replay:
    """The micro-batches of a stretch of a model's line main.

    Args:
        record: of the model, its learning and shape as production had them.
        entries: each batch packed as in the outcome stream, at the offsets that `batches` give.
    """

    def __init__(self, record: ModelRecord, batches: tuple[Batch, ...], entries: bytes | memoryview) -> None:
        self.record, self.batches, self._entries = record, batches, entries

    @classmethod
    async def of(
        cls,
        store: Store,
        record: ModelRecord,
        folder: Path | None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Self:
        """Find the micro-batches again, by the cuts that versions and refusals keep.

        Args:
            folder: of the archives; None where there is none.
            since, until: of a batch's newest label by the model's clock; whole batches, `until` is left out.

        Raises:
            TuningError: nothing was learned then, or not all of it is kept.
        """
        every = await store.versions(record.name, 2**31)
        learned = micro_batches(every)
        cuts = sorted(learned, key=position_key)
        versions = iter([learned[cut] for cut in cuts])
        found, packed, offset = list[Batch](), list[bytes](), 0
        async for outcomes in batches(store, record, START, cuts, folder):
            version = next(versions)
            if len(outcomes) != version.outcomes and (found or since is None):
                raise TuningError(
                    f"version {version.number} learned {version.outcomes} outcomes, and {len(outcomes)} of them are kept: "
                    "begin later, with --since"
                )
            newest = max((one.labelled_at for one in outcomes), default=-math.inf)
            if len(outcomes) != version.outcomes or not outcomes or not _within(newest, since, until):
                continue
            payload = pack_outcomes(Outcomes(outcomes))
            refusal = "" if version.weights else version.reason
            found.append(Batch(
                seed=version.log_position, outcomes=len(outcomes), at=newest, refusal=refusal, offset=offset, size=len(payload)
            ))  # fmt: skip
            packed.append(payload)
            offset += len(payload)
        if not found:
            raise TuningError(f"model '{record.name}' learned nothing in that time: 'tidemill archive {record.name}' says when")
        newest = next(one for one in every if one.line == MAIN)
        return cls(_as_learned(record, newest), tuple(found), b"".join(packed))

    def save(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        header = _Header(model=self.record, batches=self.batches).model_dump_json().encode()
        draft = path.with_suffix(".new")
        with open(draft, "wb") as file:
            file.write(_MAGIC + len(header).to_bytes(8, "big") + header)
            file.write(self._entries)
        draft.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Map a file into memory; raises TuningError where it is none of `save`'s."""
        with open(path, "rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if bytes(mapped[: len(_MAGIC)]) != _MAGIC:
            raise TuningError(f"{path} is no replay of this release")
        start = len(_MAGIC) + 8
        end = start + int.from_bytes(mapped[start - 8 : start], "big")
        header = _Header.model_validate_json(bytes(mapped[start:end]))
        return cls(header.model, header.batches, mapped[end:])

    def __len__(self) -> int:
        """How many micro-batches."""
        return len(self.batches)

    @property
    def outcomes(self) -> int:
        return sum(one.outcomes for one in self.batches)

    def batch(self, index: int) -> list[Outcome]:
        one = self.batches[index]
        record = unpack_outcomes(bytes(self._entries[one.offset : one.offset + one.size]))
        assert isinstance(record, Outcomes)
        return record.outcomes

    def seed(self, index: int) -> str:
        """What `Learner.learn` takes with that batch."""
        return self.batches[index].seed

    def before(self, moment: float) -> int:
        """Return how many batches there are before a moment, in seconds since 1970."""
        return next((index for index, one in enumerate(self.batches) if one.at >= moment), len(self))


def progressive(learner: Learner, replay: Replay, wanted: Iterable[int]) -> Iterator[Scored]:
    """Let a learner score and then learn batches, in turn, as production does: it is production's own learner that does it.

    What gates refused on record is taken back from a learner that learns as production did. One that learns in another way
    would have made other versions, of which nobody knows the verdict: there, only what the learner itself finds wrong counts.
    """
    mine, theirs = learner.record, replay.record
    same = (mine.learning, mine.shape) == (theirs.learning, theirs.shape)
    for index in wanted:
        outcomes = replay.batch(index)
        learned = learner.learn(outcomes, replay.seed(index))
        rejected, refusal = learned.rejected, replay.batches[index].refusal
        if same and refusal and not rejected:
            learner.undo()
            rejected = refusal
        yield Scored(outcomes, learned.loss, len(judged_by(mine.labels, outcomes)), rejected)


@dataclass(slots=True)
class Sums:
    """Progressive loss so far; batches whose loss is no number because learning failed are counted apart."""

    loss: float = 0.0
    judged: int = 0
    failed: int = 0

    def add(self, scored: Scored) -> None:
        if math.isfinite(scored.loss):
            self.loss, self.judged = self.loss + scored.loss * scored.judged, self.judged + scored.judged
        elif scored.judged:
            self.failed += 1

    @property
    def mean(self) -> float:
        """Per judged row; NaN before the first, infinite for a learner that fails."""
        return math.inf if self.failed else self.loss / self.judged if self.judged else math.nan


def learn(learner: Learner, replay: Replay, wanted: Iterable[int]) -> Sums:
    """Let a learner score and learn batches; return what its progressive loss was over them."""
    sums = Sums()
    for scored in progressive(learner, replay, wanted):
        sums.add(scored)
    return sums


def _within(at: float, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or at >= since.timestamp()) and (until is None or at < until.timestamp())


def _as_learned(record: ModelRecord, newest: Version) -> ModelRecord:
    """The record with main's way of learning: its seed may be the platform's, and a line may have become main."""
    way = way_of(newest, Way(learning=record.learning, shape=record.shape))
    return record.model_copy(update={"learning": way.learning, "shape": way.shape})
