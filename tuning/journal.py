"""What is done of a run, on disk: a line for each leg, appended and synced, so that nothing finished is done again."""

import json
import os
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError


class Leg(BaseModel):
    """Some steps of an arm. `through`: the steps up to this one are done; `first` and `end`: the places of the predictions that
    their models scored; `seconds` of processor time for learning alone; `outcomes`: each time one was learned."""

    model_config = ConfigDict(frozen=True)

    through: int
    first: int
    end: int
    seconds: float
    outcomes: int


class Journal:
    """The legs of one arm, the scores of its models, and its learner after the last leg.

    In this order: state, scores, line. What a kill left behind the last line is cut off; the line makes a leg done.

    Args:
        folder: of this arm alone; made where it is missing.
        outputs: of the network, for each row of scores.
    """

    def __init__(self, folder: Path, outputs: int) -> None:
        self._folder, self._outputs = folder, outputs
        folder.mkdir(parents=True, exist_ok=True)
        self.legs = _read(folder / "legs.jsonl")
        _cut(folder / "legs.jsonl", sum(len(_line(leg)) for leg in self.legs))
        _cut(folder / "scores", sum(leg.end - leg.first for leg in self.legs) * outputs * 4)

    @property
    def through(self) -> int:
        """How many steps are done."""
        return self.legs[-1].through if self.legs else 0

    def add(self, leg: Leg, scores: np.ndarray, state: tuple[bytes, bytes] | None = None) -> None:
        """Keep a leg; when this returns it is on disk.

        Args:
            scores: float32 [end - first, outputs].
            state: the learner's weights and checkpoint; None where it does not go on.
        """
        if state is not None:
            path = self._folder / f"state-{leg.through}"
            _append(path.with_suffix(".new"), len(state[0]).to_bytes(8, "big") + state[0] + state[1], anew=True)
            path.with_suffix(".new").replace(path)
        _append(self._folder / "scores", scores.astype(np.float32).tobytes())
        _append(self._folder / "legs.jsonl", _line(leg))
        self.legs.append(leg)
        for old in self._folder.glob("state-*"):
            if old.name != f"state-{leg.through}":
                old.unlink()

    def state(self) -> tuple[bytes, bytes]:
        """Return the learner's weights and checkpoint after the last leg."""
        kept = (self._folder / f"state-{self.through}").read_bytes()
        end = 8 + int.from_bytes(kept[:8], "big")
        return kept[8:end], kept[end:]

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of all scored predictions, int64 [n], and their scores, float32 [n, outputs]."""
        places = [np.arange(leg.first, leg.end) for leg in self.legs]
        kept = np.fromfile(self._folder / "scores", dtype=np.float32).reshape(-1, self._outputs)
        return np.concatenate(places) if places else np.zeros(0, np.int64), kept


def steps_done(folder: Path) -> int:
    """Return how many steps of an arm are on record, while somebody else may be writing it."""
    legs = _read(folder / "legs.jsonl")
    return legs[-1].through if legs else 0


def _line(leg: Leg) -> bytes:
    return leg.model_dump_json().encode() + b"\n"


def _read(path: Path) -> list[Leg]:
    if not path.exists():
        return []
    found: list[Leg] = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            found.append(Leg.model_validate(json.loads(line)))
        except (ValueError, ValidationError):
            break
        if not line.endswith(b"\n"):
            return found[:-1]
    return found


def _cut(path: Path, size: int) -> None:
    with open(path, "ab") as file:
        file.truncate(size)


def _append(path: Path, content: bytes, anew: bool = False) -> None:
    with open(path, "wb" if anew else "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
