"""One trial: a way to learn, tried over the replay from rung to rung, and all of it in a file for each.

A file holds the figures of the rungs so far and the learner's whole state, and appears in one step. Its name follows from the
settings; whoever asks for a rung that was learned reads it, whoever asks for the next goes on from there. So a trial that dies
anywhere, with its process, its Ray or the machine, loses no more than the rung it was at, and no rung is ever learned into a
state, or counted, twice.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import msgpack
from pydantic import BaseModel, ConfigDict, JsonValue

from store.spec import ModelSpec
from trainer.learner import Learner
from tuning.replay import Replay, Sums, progressive

REPLAY, TRIALS = "replay", "trials"
"""In a search's folder: the stretch, and the folder of all trials' files."""

Settings = Mapping[str, JsonValue]


class Rung(BaseModel):
    """How a trial stood when it had learned the first `batches`: `loss` is progressive, the mean over
    the `judged` rows so far."""

    model_config = ConfigDict(frozen=True)

    batches: int
    loss: float
    judged: int
    refusals: int = 0


class Trial:
    """A way to learn on its way through a replay.

    Args:
        settings: in which it differs from the declaration's, by dotted name.
        folder: of all trials' files.

    Raises:
        SpecError, ValueError: no model can learn so.
    """

    def __init__(self, spec: ModelSpec, replay: Replay, settings: Settings, folder: Path) -> None:
        self.spec = with_settings(spec, settings)
        self.settings = dict(settings)
        self._replay = replay
        self.key = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:24]
        self._folder = folder
        self._state: dict[str, Any] = {}
        self._learner: Learner | None = None

    @classmethod
    def read(cls, spec: ModelSpec, replay: Replay, folder: Path, key: str, rung: int) -> Self:
        """Return a trial as it was after a rung that was learned."""
        state = msgpack.unpackb((folder / f"{key}.{rung}").read_bytes())
        trial = cls(spec, replay, state["settings"], folder)
        trial._state = state
        return trial

    @property
    def rungs(self) -> list[Rung]:
        """Those that were asked for so far."""
        return [Rung.model_validate(one) for one in self._state.get("rungs", ())]

    def climb(self, end: int) -> Rung:
        """Return how it stands after `end` batches, the next rung; learned now only if it never was."""
        path = self._folder / f"{self.key}.{len(self._state.get('rungs', ())) + 1}"
        if path.exists():
            self._state, self._learner = msgpack.unpackb(path.read_bytes()), None
        else:
            self._state = self._learned(end)
            draft = path.with_suffix(f".{os.getpid()}.new")
            packed = msgpack.packb(self._state)
            assert isinstance(packed, bytes)
            draft.write_bytes(packed)
            draft.replace(path)
        return self.rungs[-1]

    def _learned(self, end: int) -> dict[str, Any]:
        learner, rungs = self.learner(), self.rungs
        last = rungs[-1] if rungs else Rung(batches=0, loss=0.0, judged=0)
        sums, refusals = Sums(self._state.get("sum", 0.0), last.judged, self._state.get("failed", 0)), last.refusals
        for scored in progressive(learner, self._replay, range(last.batches, end)):
            sums.add(scored)
            refusals += bool(scored.rejected)
        loss = sums.mean if sums.judged or sums.failed else _WORST
        rungs.append(Rung(batches=end, loss=min(loss, _WORST), judged=sums.judged, refusals=refusals))
        return {
            "key": self.key,
            "settings": self.settings,
            "rungs": [one.model_dump() for one in rungs],
            "sum": sums.loss,
            "failed": sums.failed,
            "weights": learner.weights(),
            "checkpoint": learner.checkpoint(),
        }

    def learner(self) -> Learner:
        """Return its learner, as it is after the last rung."""
        if self._learner is None:
            self._learner = Learner(self.spec, "cpu")
            if self._state:
                self._learner.restore(self._state["weights"], self._state["checkpoint"])
        return self._learner


def with_settings(spec: ModelSpec, settings: Settings) -> ModelSpec:
    """Return a declaration that learns in another way; raises SpecError, ValueError where no model can learn so."""
    way = spec.way.altered(settings)
    return replace(spec, learning=way.learning, shape=way.shape, search=None)


_WORST = 1e9
"""The loss of a learner that fails: schedulers can compare it, and nothing is worse."""
