"""Things to keep in a store, as small as they can be."""

from typing import cast

from pydantic import BaseModel

from store.protocols import Advance, ModelRegistry, Version
from store.spec import ModelRecord, ModelSpec

PATIENCE_S = 30.0
"""How long something that is bound to happen may take on a slow machine."""


class Features(BaseModel):
    x: float


class OtherFeatures(BaseModel):
    x: float
    y: float


def model_record(name: str = "m", features: type[BaseModel] = Features, **changes: object) -> ModelRecord:
    return ModelSpec(name=name, features=features).record.model_copy(update=changes)


def version(position: str, status: str = "published", line: str = "main") -> Version:
    return Version(model="m", line=line, status=status, position=position)


def step(expected: str, position: str, state: bytes = b"", blob: bytes = b"") -> Advance:
    return Advance("learner:m:main", expected, position, state, blob)


async def registered(store: object) -> None:
    """Put the model `m` on record, where a board is part of a store that keeps models."""
    if hasattr(store, "register"):
        await cast(ModelRegistry, store).register(model_record())
