"""A model with a network of its own: 32 numbers in, one probability out."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from store.schema import Schema
from store.spec import ModelSpec


class Features(BaseModel):
    x: Annotated[list[float], Field(min_length=32, max_length=32)]


def perceptron(schema: Schema, outputs: int) -> Any:
    """Called by the trainer alone, so torch is imported here: a serving replica never loads it."""
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    class Perceptron(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(schema.numbers, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, outputs)
            )

        def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
            return self.layers(numbers)

    return Perceptron()


spec = ModelSpec(name="vector", features=Features, network=perceptron)
