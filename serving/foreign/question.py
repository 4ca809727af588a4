"""What is asked of a file from elsewhere, and what an examination gives: plain data, for both of the processes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from store.protocols import Graph
from store.spec import ModelRecord, Objective


def readable(text: str) -> str:
    """Names in a file may hold anything, and what is said of them is shown in a terminal."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


class Question(BaseModel):
    """What is to become of a file: a version of `record`, or where that is None the first version of a new model `name`."""

    model_config = ConfigDict(frozen=True)

    name: str
    record: ModelRecord | None = None
    output: str = ""
    objective: Objective | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Examined:
    """What a file is good for. `scores` float32 [golden rows, outputs]; `said` tells what was guessed, a sentence each."""

    record: ModelRecord
    graph: Graph
    weights: bytes
    scores: np.ndarray
    lineage: dict[str, Any]
    said: tuple[str, ...]
