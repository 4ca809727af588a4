"""Weights in four bits (MatMulNBits), for wide layers alone: a block's scale and zero point weigh as much as its row."""

import onnx
from onnxruntime.quantization import QuantFormat

from store.encoding import Encoded
from trainer.compression.layout import Whole, lowered
from trainer.compression.method import Built, Method
from trainer.compression.recipe import BLOCK
from trainer.quiet import quiet

WIDE_COLUMNS = 256


def _build(whole: Whole, rows: Encoded | None) -> Built:
    found = lowered(whole, WIDE_COLUMNS)
    with quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import (  # noqa: PLC0415 - sets up logging when imported
            DefaultWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
        )
    others = [node.name for node in whole.model.graph.node if node.name not in found.matrices]
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, accuracy_level=4, quant_format=QuantFormat.QOperator)
    quantizer = MatMulNBitsQuantizer(whole.model, nodes_to_exclude=others, algo_config=config)
    quantizer.process()
    model: onnx.ModelProto = quantizer.model.model  # pyright: ignore[reportAttributeAccessIssue] - an ONNXModel by now
    return model, whole.steps("int4", found.matrices.values(), found.transposed)


INT4 = Method("int4", tolerance=0.01, build=_build)
