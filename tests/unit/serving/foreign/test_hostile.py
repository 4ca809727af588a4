"""Whatever is wrong with a file, wherever in it, is refused in one sentence that says so."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from serving.errors import Refused
from serving.foreign.examination import examine
from serving.foreign.question import Question
from serving.foreign.sandbox import Limits, examine_apart
from serving.foreign.testing import WEIGHTS, logistic, model, value

NEW = Question(name="m")
GO = value("go", [], TensorProto.BOOL)


def _external(tensor: TensorProto, location: str) -> TensorProto:
    set_external_data(tensor, location, 0, 4)
    tensor.ClearField("raw_data")
    return tensor


def _outside(location: str) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        _external(made.graph.initializer[0], location)

    return change


def _weights(array: np.ndarray) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        made.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))

    return change


def _huge(made: ModelProto) -> None:
    del made.graph.initializer[0].dims[:]
    made.graph.initializer[0].dims.extend([10**9, 1])


def _lying(made: ModelProto) -> None:
    made.graph.initializer[0].dims[0] = 4


def _many_dimensions(made: ModelProto) -> None:
    made.graph.initializer[0].dims.extend([2] * 20_000)


def _negative(made: ModelProto) -> None:
    made.graph.initializer[0].dims[0] = -3


def _complex(made: ModelProto) -> None:
    made.graph.initializer[0].data_type = TensorProto.COMPLEX64


def _training(made: ModelProto) -> None:
    made.training_info.add()


def _old(made: ModelProto) -> None:
    made.opset_import[0].version = 7


def _future(made: ModelProto) -> None:
    made.opset_import[0].version = 999


def _domain(domain: str) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        made.graph.node[0].domain = domain
        made.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def _unknown_operator(made: ModelProto) -> None:
    made.graph.node[0].op_type = "Explode"


def _sparse(location: str, dims: Sequence[int]) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        values = numpy_helper.from_array(np.ones(1, dtype=np.float32), "s")
        indices = numpy_helper.from_array(np.zeros(1, dtype=np.int64), "i")
        values = _external(values, location) if location else values
        made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, list(dims)))

    return change


def _input(shape: Any, element: int = TensorProto.FLOAT, name: str = "x") -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        made.graph.input[0].CopyFrom(value(name, shape, element))

    return change


def _branching(then: NodeProto) -> bytes:
    """A model whose If hides a node."""
    bodies = {
        name: helper.make_graph([node], name, [], [value("y", None)])
        for name, node in (("then", then), ("else", helper.make_node("Identity", ["x"], ["y"])))
    }
    nodes = [
        helper.make_node("Constant", [], ["go"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["go"], ["p"], then_branch=bodies["then"], else_branch=bodies["else"]),
    ]
    return model(nodes, [value("x", ["N", 1])], [value("p", ["N", 1])]).SerializeToString()


def _looping(turns: int, inside: NodeProto | None = None) -> bytes:
    """A model whose Loop turns so often, and does this each time."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"]), inside or helper.make_node("Cos", ["v"], ["w"])],
        "turn",
        [value("turn", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("v", ["N", 1])],
        [value("on", [], TensorProto.BOOL), value("w", ["N", 1])],
    )
    constants = {"turns": np.array(turns), "go": np.array(True)}
    nodes = [helper.make_node("Loop", ["turns", "go", "x"], ["p"], body=body)]
    return model(nodes, [value("x", ["N", 1])], [value("p", ["N", 1])], constants).SerializeToString()


def _in_function(node: NodeProto, domain: str = "mine") -> bytes:
    """A model that calls a function of its own, which does this."""
    function = helper.make_function(domain, "Own", ["x"], ["y"], [node], [helper.make_opsetid("", 18)])
    call = helper.make_node("Own", ["x"], ["p"], domain=domain)
    return model([call], [value("x", ["N", 1])], [value("p", ["N", 1])], functions=[function]).SerializeToString()


def _constant(tensor: TensorProto) -> NodeProto:
    return helper.make_node("Constant", [], ["y"], value=tensor)


HIDDEN = _external(numpy_helper.from_array(np.ones(1, dtype=np.float32), "k"), "/etc/passwd")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no ONNX file"),
        (b"\x80\x05\x95", "pickle"),
        (b"PK\x03\x04 a zip, as torch writes them", "no ONNX file"),
        (logistic()[:-20], "part of one"),
        (logistic(_outside("../../etc/passwd")), "another file, '../../etc/passwd'"),
        (logistic(_outside("/etc/passwd")), "another file, '/etc/passwd'"),
        (logistic(_outside("weights.bin")), "another file, 'weights.bin'"),
        (logistic(_weights(np.array([[0.1], [np.nan], [1]], dtype=np.float32))), "'w' holds NaN or infinity"),
        (logistic(_weights(np.array([[0.1], [np.inf], [1]], dtype=np.float16))), "'w' holds NaN or infinity"),
        (logistic(_huge), "1,000,000,000 elements: 100,000,000 are the most"),
        (logistic(_lying), "said to have 4 elements and carries 3"),
        (logistic(_negative), "negative size"),
        (logistic(_many_dimensions), "20,002 dimensions: 64 are the most"),
        (logistic(_complex), "element type 14"),
        (logistic(_training), "training_info"),
        (logistic(_old), "opset 7"),
        (logistic(_future), "opset 999"),
        (logistic(_domain("com.evil")), "operator domain 'com.evil'"),
        (logistic(_domain("com.microsoft")), "operator domain 'com.microsoft'"),
        (logistic(_domain("ai.onnx.contrib")), "operator domain 'ai.onnx.contrib'"),
        (logistic(_unknown_operator), "Explode"),
        (logistic(_sparse("x.bin", [1])), "another file, 'x.bin'"),
        (logistic(_sparse("", [10**10])), "10,000,000,000 elements"),
        (logistic(_input(None)), "no declared number of dimensions"),
        (logistic(_input(["N", 3, 3])), "3 dimensions"),
        (logistic(_input([])), "0 dimensions"),
        (logistic(_input(["N", "d"])), "an unknown number of columns"),
        (logistic(_input(["N", 10**9])), "1,000,000,000 columns"),
        (logistic(_input([1, 3])), "exactly 1 rows"),
        (logistic(_input(["N", 3], TensorProto.COMPLEX64)), "element type 14"),
        (logistic(_input(["N", 3], TensorProto.STRING)), "takes text"),
        (_branching(_constant(HIDDEN)), "another file, '/etc/passwd'"),
        (_branching(helper.make_node("Run", ["x"], ["y"], domain="evil")), "operator domain 'evil'"),
        (_looping(1, helper.make_node("Run", ["v"], ["w"], domain="evil")), "operator domain 'evil'"),
        (_in_function(_constant(HIDDEN)), "another file, '/etc/passwd'"),
        (_in_function(helper.make_node("Run", ["x"], ["y"], domain="evil")), "operator domain 'evil'"),
        (_in_function(helper.make_node("Neg", ["x"], ["y"]), "ai.onnx"), "stands in for an operator"),
        (_branching(_constant(numpy_helper.from_array(np.array([1, np.nan], dtype=np.float32)))), "NaN"),
        (_branching(helper.make_node("Constant", [], ["y"], value_floats=[1.0, float("nan")])), "'value_floats'"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused_in_one_sentence(content: bytes, says: str) -> None:
    with pytest.raises(Refused) as refused:
        examine(content, NEW)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("content", [_looping(3), _in_function(helper.make_node("Sigmoid", ["x"], ["y"]))])
def test_subgraphs_and_functions_that_hide_nothing_are_taken(content: bytes) -> None:
    examined = examine(content, NEW)
    assert examined.scores.shape == (16, 1)


def _chained(*nodes: tuple[str, list[str]], **constants: np.ndarray) -> bytes:
    """A model that does one thing after another with its input."""
    made = [helper.make_node(operator, inputs, [f"v{number}"]) for number, (operator, inputs) in enumerate(nodes)]
    made[-1].output[0] = "p"
    dimensions = 3 if nodes[-1][0] == "Unsqueeze" else 2
    return model(made, [value("x", ["N", 1])], [value("p", [None] * dimensions)], constants).SerializeToString()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (_chained(("Sqrt", ["x"])), "gives NaN or infinity for plausible rows"),
        (_chained(("Unsqueeze", ["x", "axis"]), axis=np.array([1])), "has shape (16, 1, 1)"),
        (_chained(("ReduceSum", ["x"])), "to be [N] or [N, columns]"),
        (_chained(("Gather", ["x", "far"]), far=np.array([99])), "cannot run the model on plausible rows"),
        (_chained(("ReduceSum", ["x"]), ("Add", ["x", "v0"])), "when it comes alone"),
        (_chained(("Reshape", ["x", "shape"]), shape=np.array([16, 1])), "one row alone"),
    ],
)  # fmt: skip
def test_what_does_not_answer_as_a_version_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(Refused) as refused:
        examine(content, NEW)
    assert says in str(refused.value)


def test_a_file_is_examined_apart_as_it_is_here() -> None:
    apart, here = examine_apart(logistic(), NEW), examine(logistic(), NEW)
    assert (apart.record, apart.graph, apart.weights, apart.lineage) == (here.record, here.graph, here.weights, here.lineage)
    assert np.array_equal(apart.scores, here.scores)
    with pytest.raises(Refused, match="pickle"):
        examine_apart(b"\x80", NEW)


@pytest.mark.parametrize(
    ("limits", "says"),
    [(Limits(cpu_s=2), "2 s of processor time"), (Limits(wall_s=3.0), "more than 3 s")],
    ids=["processor", "clock"],
)
def test_a_loop_without_end_is_ended(limits: Limits, says: str) -> None:
    with pytest.raises(Refused, match=says):
        examine_apart(_looping(10**15), NEW, limits)


def _doubling(depth: int) -> bytes:
    """A model whose functions each call the next one twice."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    functions = [
        helper.make_function(
            "mine", f"F{level}", ["x"], ["y"],
            [
                helper.make_node(f"F{level + 1}", ["x"], ["z"], domain="mine"),
                helper.make_node(f"F{level + 1}", ["z"], ["y"], domain="mine"),
            ],
            opsets,
        )
        for level in range(depth)
    ]  # fmt: skip
    functions.append(helper.make_function("mine", f"F{depth}", ["x"], ["y"], [helper.make_node("Cos", ["x"], ["y"])], opsets))
    call = helper.make_node("F0", ["x"], ["p"], domain="mine")
    return model([call], [value("x", ["N", 1])], [value("p", ["N", 1])], functions=functions).SerializeToString()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (_doubling(40), "of processor time|of memory|ended"),
        (_in_function(helper.make_node("Own", ["x"], ["y"], domain="mine")), "no valid ONNX model"),
    ],
    ids=["doubling", "calling itself"],
)
def test_functions_without_end_harm_nobody(content: bytes, says: str) -> None:
    with pytest.raises(Refused, match=says):
        examine_apart(content, NEW, Limits(memory_bytes=2 * 2**30, cpu_s=5))


def _classes(count: int) -> bytes:
    """A model that gives each row a probability for so many classes."""
    return _chained(("Expand", ["x", "shape"]), ("Softmax", ["v0"]), shape=np.array([1, count]))


def _inputs(count: int) -> bytes:
    names = [f"x{number}" for number in range(count)]
    nodes = [
        helper.make_node("Concat", names, ["all"], axis=1),
        helper.make_node("ReduceMean", ["all", "axis"], ["p"]),
    ]
    inputs = [value(name, ["N", 1]) for name in names]
    return model(nodes, inputs, [value("p", ["N", 1])], {"axis": np.array([1])}).SerializeToString()


@pytest.mark.parametrize(
    ("content", "says"),
    [(_classes(10_001), "10,001 columns: 10,000 are the most"), (_inputs(1001), "1,001 inputs: 1,000 are the most")],
    ids=["classes", "inputs"],
)
def test_what_would_swell_the_record_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(Refused, match=says):
        examine(content, NEW)


@pytest.mark.parametrize("name", ["", "a\x1b[2J", "c" * 101])
def test_a_class_has_a_readable_name(name: str) -> None:
    with pytest.raises(Refused, match="1 to 100 printable characters"):
        examine(_classes(2), Question(name="m", objective="multiclass", classes=("fine", name)))


def test_what_is_slow_is_not_published_for_replicas_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.foreign.examination.MOST_CPU_S", 0.0)
    with pytest.raises(Refused, match=r"17 rows takes .* of processor time"):
        examine(_looping(1000), NEW)


def test_what_a_small_file_may_make_of_itself_is_small() -> None:
    two_gib = helper.make_node("ConstantOfShape", ["size"], ["v"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.1]))
    nodes = [two_gib, helper.make_node("Gather", ["v", "first"], ["g"]), helper.make_node("Add", ["x", "g"], ["p"])]
    constants = {"size": np.array([2**29]), "first": np.array(0)}
    content = model(nodes, [value("x", ["N", 1])], [value("p", ["N", 1])], constants).SerializeToString()
    with pytest.raises(Refused, match=r"memory|ended"):
        examine_apart(content, NEW)


def test_what_a_file_names_is_shown_without_what_a_terminal_would_obey() -> None:
    def named(made: ModelProto) -> None:
        made.graph.node[0].name = "\x1b]0;owned\x07\nsecond line"
        made.graph.node[0].domain = "evil"

    with pytest.raises(Refused) as refused:
        examine_apart(logistic(named), NEW)
    assert str(refused.value).isprintable()

    def signed(made: ModelProto) -> None:
        made.producer_name = "\x1b[2Jme"
        made.graph.output[0].name = made.graph.node[-1].output[0] = "p\x1b[31m"

    examined = examine_apart(logistic(signed), NEW)
    assert examined.lineage["producer"] == "\ufffd[2Jme"
    assert all(sentence.isprintable() for sentence in examined.said)


def test_memory_without_end_is_refused() -> None:
    content = _chained(
        ("Expand", ["x", "shape"]), ("ReduceSum", ["v0", "axis"]), shape=np.array([1, 10**12]), axis=np.array([1])
    )
    with pytest.raises(Refused, match=r"cannot run the model|memory|ended"):
        examine_apart(content, NEW)


def test_weights_that_many_inputs_of_old_files_repeat_are_no_inputs() -> None:
    def as_of_old(made: ModelProto) -> None:
        made.graph.input.append(value("w", WEIGHTS.shape))
        made.ir_version = 3

    assert [field.name for field in examine(logistic(as_of_old), NEW).record.features.fields] == ["x"]


def test_a_graph_is_no_function_of_what_the_file_says_of_itself() -> None:
    def signed(made: onnx.ModelProto) -> None:
        made.producer_name = "somebody" * 1000
        made.metadata_props.add(key="ort_config", value="{}")

    examined = examine(logistic(signed), NEW)
    assert examined.graph.onnx == examine(logistic(), NEW).graph.onnx
    assert len(examined.lineage["producer"]) == 100
