"""Weights in sixteen bits: half the bytes to keep and to send, the same arithmetic.

They become float32 again when the graph is opened. ONNX Runtime has no float16 products on x86, and feature statistics
computed in float16 would lose what they are there for; so this saves no time, and costs next to no accuracy.
"""

from onnx import TensorProto, helper, numpy_helper

from store.encoding import Encoded
from trainer.compression.layout import Whole
from trainer.compression.method import Built, Method
from trainer.compression.recipe import float16
from trainer.errors import NotApplicable


def _build(whole: Whole, rows: Encoded | None) -> Built:
    graph = whole.model.graph
    chosen = [tensor for tensor in graph.initializer if tensor.name in whole.weights and _is_table(tensor)]
    if not chosen:
        raise NotApplicable("the graph has no weight matrix")
    steps = whole.steps("float16", [tensor.name for tensor in chosen])
    for number, tensor in enumerate(chosen):
        [(half, values)] = float16(tensor.name, numpy_helper.to_array(tensor)).items()
        cast = helper.make_node("Cast", [half], [tensor.name], f"{tensor.name}_cast", to=TensorProto.FLOAT)
        graph.node.insert(number, cast)
        tensor.CopyFrom(numpy_helper.from_array(values, half))
    return whole.model, steps


def _is_table(tensor: TensorProto) -> bool:
    """Matrices and embeddings; vectors, such as feature statistics and biases, weigh nothing and stay exact."""
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2


FP16 = Method("fp16", tolerance=0.001, build=_build)
