"""A model with a wide network, 1024-1024: its run is worth batching."""

from typing import Any

from examples.vector import Features
from store.schema import Schema
from store.spec import ModelSpec, Schedule

WIDTH = 1024


def wide(schema: Schema, outputs: int) -> Any:
    from torch import nn  # noqa: PLC0415 - called by the trainer alone
    from torch.nn import Module  # noqa: PLC0415

    class Wide(Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(schema.numbers, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs)
            )

        def forward(self, numbers: Any, categories: Any) -> Any:
            return self.layers(numbers)

    return Wide()


spec = ModelSpec(name="wide", features=Features, network=wide, schedule=Schedule(outcomes=None, seconds=None))
