"""What a way to compress a version is."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from store.encoding import Encoded
from trainer.compression.layout import Whole
from trainer.compression.recipe import Step

Built = tuple[onnx.ModelProto, tuple[Step, ...]]

LEAST_COLUMNS = 8
"""Matrices with fewer columns stay as they are: there is nothing to gain, and the last layer's rounding is the answer's."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to compress. `build` may change the model it is given; it takes rows to calibrate with, None where there are
    none, returns the compressed model and what becomes of each weight, and raises NotApplicable.

    `tolerance` is how far the golden answers may be from the record, as a share of the largest: where activations are
    rounded, another processor's last bit can be one whole step.
    """

    name: str
    tolerance: float
    build: Callable[[Whole, Encoded | None], Built]
