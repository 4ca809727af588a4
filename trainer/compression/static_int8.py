"""Weights in eight bits, activations too, by scales that were calibrated on logged predictions and stay in the graph.

Versions that are requantised later keep those scales: where the features drift away from what they were calibrated on,
activations are cut off at their edges.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from store.artefact import CATEGORIES, NUMBERS
from store.encoding import Encoded
from trainer.compression.layout import Whole, lowered
from trainer.compression.method import LEAST_COLUMNS, Built, Method
from trainer.errors import NotApplicable

CALIBRATION_ROWS = 100
"""At least so many logged predictions."""
_AT_ONCE = 256


def _build(whole: Whole, rows: Encoded | None) -> Built:
    if rows is None or len(rows) < CALIBRATION_ROWS:
        known = 0 if rows is None else len(rows)
        raise NotApplicable(f"it is calibrated on at least {CALIBRATION_ROWS} logged predictions, and there are {known}")
    found = lowered(whole, LEAST_COLUMNS)
    with TemporaryDirectory(prefix="tidemill-") as folder:
        path = Path(folder) / "quantised.onnx"
        quantize_static(
            whole.model, path, _Rows(whole.model, rows), QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            # Sums are rounded too: else ONNX Runtime makes a float32 Gemm of MatMul and Add before it sees the integers.
            op_types_to_quantize=["MatMul"], nodes_to_quantize=list(found.matrices),
        )  # fmt: skip
        return onnx.load(path), whole.steps("int8", found.matrices.values(), found.transposed)


class _Rows(CalibrationDataReader):
    def __init__(self, model: onnx.ModelProto, rows: Encoded) -> None:
        self._parts = _parts({argument.name for argument in model.graph.input}, rows)

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride] - None ends it
        return next(self._parts, None)


def _parts(inputs: set[str], rows: Encoded) -> Iterator[dict[str, np.ndarray]]:
    feeds = {NUMBERS: rows.numbers, CATEGORIES: rows.categories}
    for start in range(0, len(rows), _AT_ONCE):
        yield {name: feeds[name][start : start + _AT_ONCE] for name in inputs}


STATIC_INT8 = Method("static_int8", tolerance=0.01, build=_build)
