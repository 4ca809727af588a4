"""The trainer of a line beside main: it learns the micro-batches that main's trainer has joined, in its own way.

It reads the outcome stream and nothing else, so that which outcomes and which cuts it learns is what main learns. A line that
begins behind main keeps what it learned now and then alone, and publishes once it has caught up.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from time import time
from typing import Any

from store.errors import NotFound
from store.lines import SCRATCH, learned_version, read_lines, seen_by, with_way
from store.names import learner_consumer, outcome_stream
from store.policy import MAIN
from store.protocols import START, Store, Version, position_key
from store.records import Cut, unpack_outcomes
from store.spec import ModelSpec
from trainer.errors import LineEnded
from trainer.joining import READ_ENTRIES
from trainer.learner import Learned
from trainer.learning import Learning, Origin

SAVED_EVERY = 50
"""Micro-batches after which a line that catches up keeps what it has learned."""

_SAVED_EVERY_S = 10.0
_TRIES = 20


class LineTrainer:
    """Learns one line of a model. `reached` and `tell` are those of its `Learning`."""

    def __init__(
        self,
        spec: ModelSpec,
        store: Store,
        name: str,
        *,
        reached: Callable[[str], None] | None = None,
        tell: Callable[[Version], None] | None = None,
    ) -> None:
        self._spec, self._store, self._model, self._name = spec, store, spec.name, name
        self._reached, self._tell = reached, tell
        self._outcomes = outcome_stream(self._model)
        self._unsaved, self._saved_at = 0, time()
        self.begun = False
        """Whether there is progress to tell of."""
        self.caught_up = False
        """Whether it has been where main was, and publishes."""

    async def start(self) -> None:
        """Take up where the line's learner stopped, or begin as the line says.

        Raises:
            NotFound: the model is not on record, or the line is not active.
            CheckpointError: the store's log is older than the checkpoint.
        """
        record = (await self._store.models()).get(self._model)
        if record is None:
            raise NotFound(f"no model '{self._model}': it was removed")
        self._line = line = (await read_lines(self._store, self._model)).expect(self._name)
        # Drift and compressed children are main's alone.
        spec = replace(with_way(self._spec, line.way, record.learning), drift=None, compress="")
        lineage: dict[str, Any] = {"line": {"name": line.name, "start": line.start, "born": line.born}}
        if line.way.shape != record.shape:
            lineage["shape"] = line.way.shape.model_dump(mode="json")
        self.learning = Learning(
            spec, self._store, line.name, born=line.born, lineage=lineage, reached=self._reached, tell=self._tell
        )  # fmt: skip
        self.begun = True
        known = await self.learning.resume()
        if known is None:
            origin = await self._origin()
            self.caught_up = await self._at_main(origin.position)
            await self.learning.begin(origin, good=self.caught_up)
        else:
            self.caught_up = known["caught_up"]
        self._read_at = self.learning.at

    async def step(self, block_s: float = 0.5) -> bool:
        """Learn what is in the outcome stream; wait up to `block_s` if there is nothing. True if there was."""
        entries = await self._store.read(self._outcomes, self._read_at, READ_ENTRIES, block_s)
        for entry in entries:
            record = unpack_outcomes(entry.payload)
            learned = await self.learning.take(record)
            self._read_at = entry.position
            if isinstance(record, Cut):
                await self._end(record, entry.position, learned)
        return bool(entries)

    async def refresh(self) -> None:
        """Raises LineEnded where the line was retired, or became main, or was added anew."""
        lines = await read_lines(self._store, self._model)
        if not any((line.name, line.born) == (self._name, self._line.born) for line in lines.active):
            raise LineEnded(f"line '{self._name}' of model '{self._model}' has ended")

    @property
    def progress(self) -> dict[str, object]:
        return {
            "line": self._name,
            "learner": self.learning.at,
            "version": self.learning.version,
            "waiting": len(self.learning.waiting),
            "caught_up": self.caught_up,
        }

    @property
    def busy_s(self) -> dict[str, float]:
        return self.learning.busy_s

    async def _end(self, cut: Cut, position: str, learned: Learned) -> None:
        """End a micro-batch: each is kept once the line has caught up, until then one now and then, and what a gate refused."""
        self._unsaved += 1
        self.caught_up = self.caught_up or await self._at_main(position)
        late = self._unsaved >= SAVED_EVERY or time() - self._saved_at > _SAVED_EVERY_S
        if not self.caught_up and not late and not learned.rejected:
            return self.learning.go_past(position, learned)
        await self.learning.commit(cut, position, learned, good=self.caught_up)
        self._unsaved, self._saved_at = 0, time()

    async def _at_main(self, position: str) -> bool:
        main, _ = await self._store.consumer(learner_consumer(self._model))
        return position_key(position) >= position_key(main)

    async def _origin(self) -> Origin:
        start = self._line.start
        if start == SCRATCH:
            return Origin()
        return await self._version(int(start)) if start.isdecimal() else await self._learner(start)

    async def _learner(self, line: str) -> Origin:
        """Another learner's state as it is now, all of one moment: read again where it moved meanwhile.

        Raises:
            NotFound: it has not begun.
        """
        name = learner_consumer(self._model, line)
        for _ in range(_TRIES):
            position, state = await self._store.consumer(name)
            if not state:
                break
            known: dict[str, Any] = json.loads(state)
            parent = await learned_version(self._store, self._model, line, position, known)
            weights, blob = await self._store.weights(self._model, parent.number), await self._store.blob(name)
            if (position, state) == await self._store.consumer(name):
                return Origin(position, known["log_position"], parent, weights, blob, known["gates"])
        raise NotFound(f"line '{line}' of model '{self._model}' has no learner to begin with")

    async def _version(self, number: int) -> Origin:
        """A version's weights, where it was learned up to; where main is, if it was not learned from the stream."""
        parent = await self._store.version(self._model, number)
        seen = await seen_by(self._store, parent)
        weights = await self._store.weights(self._model, number)
        if parent.line == MAIN or "line" in parent.lineage:
            return Origin(parent.position, parent.log_position, parent, weights, seen=seen)
        main, state = await self._store.consumer(learner_consumer(self._model))
        log_position: str = json.loads(state)["log_position"] if state else START
        return Origin(main, log_position, parent, weights, seen=seen)
