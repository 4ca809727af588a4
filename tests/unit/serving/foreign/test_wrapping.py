"""A model from elsewhere takes the features it is meant to take, and its numbers mean what they are said to mean."""

from datetime import datetime
from typing import Annotated, Any

import numpy as np
import pytest
from onnx import TensorProto, ValueInfoProto, helper
from pydantic import BaseModel, Field

from serving.errors import Refused
from serving.foreign.examination import examine
from serving.foreign.question import Examined, Question
from serving.foreign.testing import model, value
from store.artefact import ArtefactError, check_digests, check_golden, digest_of, graph_of, open_session, unpack_golden
from store.encoding import Encoder
from store.protocols import Version
from store.spec import ModelRecord, ModelSpec

NEW = Question(name="m")


class Everything(BaseModel):
    country: str
    age: float
    shown_at: datetime
    staff: bool
    taste: Annotated[list[float], Field(min_length=2, max_length=2)]
    visits: Annotated[int, Field(ge=0, le=100)]
    income: float | None = None


class Numbers(BaseModel):
    b: float
    a: float


def _record(features: type[BaseModel], **more: Any) -> ModelRecord:
    return ModelSpec(name="m", features=features, **more).record


def _asked(features: type[BaseModel], **more: Any) -> Question:
    return Question(name="m", record=_record(features, **more))


def _sum(*inputs: ValueInfoProto) -> bytes:
    """A model whose answer is the sum of all it is given, each input weighed by its place: 1, 10, 100, …"""
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {"row": np.array([-1, 1]), "across": np.array([1])}
    for place, one in enumerate(inputs):
        flat = len(one.type.tensor_type.shape.dim) == 1
        constants[f"w{place}"] = np.array([10.0**place], dtype=np.float32)
        nodes += [
            helper.make_node("Cast", [one.name], [f"f{place}"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", [f"f{place}", "row"], [f"s{place}"]) if flat
            else helper.make_node("ReduceSum", [f"f{place}", "across"], [f"s{place}"]),
            helper.make_node("Mul", [f"s{place}", f"w{place}"], [f"t{place}"]),
        ]  # fmt: skip
    nodes.append(helper.make_node("Sum", [f"t{place}" for place in range(len(inputs))], ["y"]))
    return model(nodes, inputs, [value("y", ["N", 1])], constants).SerializeToString()


def _answer(examined: Examined, **features: Any) -> float:
    encoder = Encoder(examined.record.features)
    encoded = encoder.encode([encoder.row(features)])
    return float(open_session(examined.graph.onnx, examined.weights).run(encoded)[0, 0])


FULL = {
    "country": "VN", "age": 3.0, "shown_at": datetime(2026, 1, 1), "staff": True, "taste": [2.0, 5.0], "visits": 9,
    "income": 1.0,
}  # fmt: skip


def test_inputs_find_their_features_by_name() -> None:
    content = _sum(
        value("taste", ["N", 2]),
        value("staff", ["N"], TensorProto.BOOL),
        value("visits", ["N", 1], TensorProto.INT32),
        value("age", [None], TensorProto.DOUBLE),
    )
    examined = examine(content, _asked(Everything, objective="regression"))
    assert _answer(examined, **FULL) == 7 + 10 + 900 + 3000
    assert not examined.said


def test_one_input_takes_all_numbers_in_the_schemas_order() -> None:
    nodes = [helper.make_node("Gather", ["table", "first"], ["y"], axis=1)]
    content = model(nodes, [value("table", ["N", 2])], [value("y", ["N", 1])], {"first": np.array([0])}).SerializeToString()
    assert _answer(examine(content, _asked(Numbers, objective="regression")), a=1.0, b=2.0) == 2.0


@pytest.mark.parametrize(
    ("features", "inputs", "says"),
    [
        (Everything, [value("country", ["N"], TensorProto.STRING)], "would take feature 'country', which is a text"),
        (Everything, [value("shown_at", ["N"])], "input 'shown_at' would take feature 'shown_at', which is a time"),
        (Everything, [value("age", ["N"], TensorProto.STRING)], "takes text, and feature 'age' is a number"),
        (Everything, [value("taste", ["N", 3])], "takes 3 numbers for each row, and feature 'taste' has 2"),
        (Everything, [value("income", ["N"], TensorProto.INT64)], "whole numbers, and feature 'income' may be missing"),
        (Everything, [value("age", ["N"]), value("size", ["N"])], "input 'size' has no feature of its name: there are"),
        (Everything, [value("table", ["N", 4])], "takes 4 numbers, the model's numeric features make 6"),
        (Everything, [value("income", ["N"])], "a feature may be missing, and then it does"),
        (Numbers, [value("table", ["N"])], "takes 1 numbers, the model's numeric features make 2"),
        (Numbers, [value("table", ["N", 2], TensorProto.STRING)], "input 'table' takes text"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_the_input_and_the_feature(
    features: type[BaseModel], inputs: list[ValueInfoProto], says: str
) -> None:
    with pytest.raises(Refused) as refused:
        examine(_sum(*inputs), _asked(features, objective="regression"))
    assert says in str(refused.value)


def test_features_are_made_from_inputs() -> None:
    content = _sum(
        value("size", ["N"]),
        value("rooms", ["N", 1], TensorProto.UINT8),
        value("new", ["N"], TensorProto.BOOL),
        value("place", ["N", 3], TensorProto.DOUBLE),
    )
    examined = examine(content, NEW)
    fields = [(one.name, one.kind, one.length, one.ge, one.le) for one in examined.record.features.fields]
    assert fields == [
        ("size", "number", 0, None, None), ("rooms", "number", 0, 0, 255), ("new", "boolean", 0, None, None),
        ("place", "vector", 3, None, None),
    ]  # fmt: skip
    assert (examined.record.objective, examined.record.trainable) == ("regression", False)
    assert "objective regression, because output 'y' is one number" in examined.said[0]
    assert _answer(examined, size=0.5, rooms=2, new=False, place=[1, 2, 3]) == 0.5 + 20 + 6000


def test_names_of_ours_may_be_names_of_theirs() -> None:
    content = _sum(value("numbers", ["N", 2]), value("scores", ["N"]), value("categories", ["N"]))
    assert _answer(examine(content, NEW), numbers=[1.0, 1.0], scores=2.0, categories=3.0) == 2 + 20 + 300


def _softmax(columns: int, **outputs: int) -> bytes:
    """A model that gives probabilities of so many classes, and other outputs: copies of its input, as these element types."""
    weights = np.random.default_rng(0).normal(size=(2, columns)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Softmax", ["xw"], ["p"], axis=1)]
    nodes += [helper.make_node("Cast", ["x"], [name], to=element) for name, element in outputs.items()]
    declared = [value(name, ["N", 2], element) for name, element in outputs.items()]
    return model(nodes, [value("x", ["N", 2])], [*declared, value("p", ["N", columns])], {"w": weights}).SerializeToString()


def test_probabilities_are_told_from_labels() -> None:
    examined = examine(_softmax(2, label=TensorProto.INT64), NEW)
    assert (examined.record.objective, examined.scores.shape) == ("binary", (16, 1))
    assert examined.said[1] == "the probability is column 1 of output 'p'"
    examined = examine(_softmax(3), NEW)
    assert (examined.record.objective, examined.record.classes) == ("multiclass", ("0", "1", "2"))
    named = examine(_softmax(3), Question(name="m", objective="multiclass", classes=("a", "b", "c")))
    assert named.record.classes == ("a", "b", "c")
    assert not named.said


def test_classes_that_the_model_names_come_in_the_order_on_record() -> None:
    attributes: dict[str, Any] = {
        "coefficients": [1.0, 0, 0, 1.0, -1.0, -1.0], "intercepts": [0.0, 0.0, 0.0], "multi_class": 1,
        "post_transform": "SOFTMAX", "classlabels_strings": ["low", "mid", "high"],
    }  # fmt: skip
    node = helper.make_node("LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", **attributes)
    outputs = [value("label", ["N"], TensorProto.STRING), value("p", ["N", 3])]
    content = model([node], [value("x", ["N", 2])], outputs).SerializeToString()
    given = examine(content, NEW)
    assert given.record.classes == ("low", "mid", "high")

    class Table(BaseModel):
        x: Annotated[list[float], Field(min_length=2, max_length=2)]

    turned = examine(content, _asked(Table, objective="multiclass", classes=("high", "low", "mid")))
    assert np.array_equal(turned.scores, given.scores[:, [2, 0, 1]])
    with pytest.raises(Refused, match="the model's classes are low, mid, high, and those wanted x, y, z"):
        examine(content, Question(name="m", objective="multiclass", classes=("x", "y", "z")))


def _mapped() -> bytes:
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"], axis=1),
        helper.make_node("ZipMap", ["p"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [helper.make_value_info("maps", helper.make_sequence_type_proto(maps))]
    return model(nodes, [value("x", ["N", 2])], outputs).SerializeToString()


@pytest.mark.parametrize(
    ("content", "asked", "says"),
    [
        (_softmax(2, a=TensorProto.FLOAT), {}, "has the outputs 'a', 'p': name the one that is the answer with --output"),
        (_softmax(2, a=TensorProto.FLOAT), {"output": "b"}, "no output 'b': it has 'a', 'p'"),
        (_softmax(2, label=TensorProto.INT64), {"output": "label"}, "output 'label' holds labels"),
        (_mapped(), {}, "options={'zipmap': False}"),
        (_softmax(3), {"objective": "binary"}, "has 3 columns, and objective binary takes one"),
        (_softmax(2), {"objective": "regression"}, "has 2 columns, and objective regression takes one"),
        (_softmax(3), {"objective": "multiclass", "classes": ("a", "b")}, "there is to be a column for each"),
        (_softmax(3), {"objective": "multiclass", "classes": ("a", "a", "b")}, "at least two different ones"),
        (_softmax(2), {"objective": "binary", "classes": ("a", "b")}, "--classes belong to objective multiclass"),
        (_sum(value("x", ["N"])), {"objective": "binary"}, "objective binary takes probabilities"),
        (_softmax(2, a=TensorProto.FLOAT), {"output": "a"}, "no probabilities: say what it means with --objective"),
        (_sum(value("", ["N"])), {}, "no valid ONNX model"),
        (_sum(value("a\nb", ["N"])), {}, "printable"),
        (_sum(value("a", ["N", 60_000]), value("b", ["N", 60_000])), {}, "120,000 numbers for each row"),
    ],
)  # fmt: skip
def test_what_could_mean_several_things_or_nothing_is_refused(content: bytes, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused) as refused:
        examine(content, Question(name="m", **asked))
    assert says in str(refused.value)


def test_one_of_several_outputs_is_taken_by_name() -> None:
    asked = Question(name="m", output="p")
    assert examine(_softmax(2, a=TensorProto.FLOAT), asked).record.objective == "binary"


def test_missing_values_and_bounds_are_in_the_golden_rows() -> None:
    nodes = [
        helper.make_node("IsNaN", ["income"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "income"], ["y"]),
    ]
    content = model(nodes, [value("income", ["N"])], [value("y", ["N"])], {"zero": np.zeros(1, dtype=np.float32)})
    examined = examine(content.SerializeToString(), _asked(Everything, objective="regression"))
    numbers = unpack_golden(examined.graph.golden_inputs).numbers
    visits, income = numbers[:, -2], numbers[:, -1]
    assert np.isnan(income).any()
    assert not np.isnan(numbers[:, :-1]).any()
    assert ((visits >= 0) & (visits <= 100)).all()


def test_large_weights_are_outside_of_the_graph() -> None:
    weights = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("ReduceSum", ["xw", "axis"], ["y"])]
    content = model(nodes, [value("x", ["N", 200])], [value("y", ["N", 1])], {"w": weights, "axis": np.array([1])})
    examined = examine(content.SerializeToString(), NEW)
    assert len(examined.weights) > weights.nbytes
    assert len(examined.graph.onnx) < weights.nbytes
    row = np.arange(200, dtype=np.float32) / 100
    assert _answer(examined, x=row.tolist()) == pytest.approx(float((row @ weights).sum()), rel=1e-5)


def test_bytes_that_are_not_those_on_record_are_told() -> None:
    examined = examine(_softmax(2), NEW)
    graph, weights = examined.graph, examined.weights
    good = Version(model="m", line="l", position="1-0", graph=graph.digest, weights=digest_of(weights))
    check_digests(good, graph, weights)
    check_golden(open_session(graph.onnx, weights), graph.golden_inputs, tuple(map(tuple, examined.scores.tolist())), 1e-4)
    with pytest.raises(ArtefactError, match="weights of version"):
        check_digests(good, graph, weights + b" ")
    with pytest.raises(ArtefactError, match="graph of version"):
        check_digests(good, graph_of(graph.onnx + b"x", unpack_golden(graph.golden_inputs)), weights)


def test_branches_use_the_weights_around_them() -> None:
    double = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["d"])], "double", [], [value("d", None)])
    same = helper.make_graph([helper.make_node("Identity", ["x"], ["s"])], "same", [], [value("s", None)])
    nodes = [helper.make_node("If", ["go"], ["y"], then_branch=double, else_branch=same)]
    constants = {"two": np.array([[2.0]], dtype=np.float32), "go": np.array(True)}
    content = model(nodes, [value("x", ["N", 1])], [value("y", ["N", 1])], constants).SerializeToString()
    examined = examine(content, NEW)
    golden = unpack_golden(examined.graph.golden_inputs)
    assert np.allclose(examined.scores, 2.0 * golden.numbers)
