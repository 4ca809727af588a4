"""Weights in eight bits, activations rounded to eight as they come: the scale is that of all the rows of a request."""

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from store.encoding import Encoded
from trainer.compression.layout import Whole, lowered
from trainer.compression.method import LEAST_COLUMNS, Built, Method


def _build(whole: Whole, rows: Encoded | None) -> Built:
    found = lowered(whole, LEAST_COLUMNS)
    with TemporaryDirectory(prefix="tidemill-") as folder:
        path = Path(folder) / "quantised.onnx"
        quantize_dynamic(
            whole.model, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"], nodes_to_quantize=list(found.matrices),
        )  # fmt: skip
        return onnx.load(path), whole.steps("int8", found.matrices.values(), found.transposed)


DYNAMIC_INT8 = Method("dynamic_int8", tolerance=0.01, build=_build)
