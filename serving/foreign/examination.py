"""From the bytes of an ONNX file to all that a version is made of, or to one sentence that says why not. Pure computation."""

import hashlib
import re
from time import process_time
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto

from serving.errors import Refused
from serving.foreign.checks import checked, validate
from serving.foreign.matching import Feed, derived, matched
from serving.foreign.meaning import Answers, Meaning, Wanted, meaning_of
from serving.foreign.plausible import plausible_rows
from serving.foreign.question import Examined, Question, readable
from serving.foreign.signature import chosen_output, class_labels, inputs_of
from serving.foreign.wrapping import ends_in_sigmoid, inlined, wrapped
from store.artefact import ArtefactError, graph_of, open_session
from store.encoding import Encoded
from store.errors import first_line
from store.schema import Schema
from store.spec import ModelRecord, Schedule

MOST_OUTPUTS = 10_000
MOST_CPU_S = 5.0
"""Opening a version and answering its golden inputs, which every replica does while its other models wait."""

_TOLERANCE = 1e-5
_PLACE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z])")


def examine(content: bytes, question: Question) -> Examined:
    """Check a file, wrap it and try it out.

    Raises:
        Refused: it cannot become that version.
    """
    model = checked(content)
    lineage = _lineage(model, content)
    inputs = inputs_of(model)
    validate(model)
    model = inlined(model)
    output = chosen_output(model, question.output)
    known = question.record
    schema = known.features if known else derived(inputs)
    feeds = matched(schema, inputs)
    whole = [feed.input for feed in feeds if feed.input.whole]
    names = [field.name for field in schema.fields] if whole and len(feeds) == 1 else [one.name for one in whole]
    golden = plausible_rows(schema, names)
    values = _original(model, feeds, output, golden)
    answers = Answers(output, values, class_labels(model, values.shape[1]), ends_in_sigmoid(model.graph, output))
    meaning = meaning_of(answers, Wanted(question.objective, question.classes), known)
    onnx, weights = wrapped(model, schema, feeds, output, meaning.columns, answers.columns)
    scores = _tried(onnx, weights, golden, values[:, list(meaning.columns)])
    record = known or _new(question.name, schema, meaning)
    return Examined(record, graph_of(onnx, golden), weights, scores, lineage, meaning.said)


def _new(name: str, schema: Schema, meaning: Meaning) -> ModelRecord:
    by_hand = Schedule(outcomes=None, seconds=None)
    return ModelRecord(
        name=name, features=schema, objective=meaning.objective, classes=meaning.classes, schedule=by_hand, trainable=False
    )


def _original(model: ModelProto, feeds: tuple[Feed, ...], output: str, golden: Encoded) -> np.ndarray:
    """Return what the model itself answers, finite, [rows, columns]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    asked = {feed.input.name: _fed(feed, golden.numbers) for feed in feeds}
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        values = np.asarray(session.run([output], asked)[0])
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's own errors derive from Exception alone
        raise Refused(f"ONNX Runtime cannot run the model on plausible rows: {_plain(error)}") from error
    rows = len(golden)
    if values.ndim not in (1, 2) or len(values) != rows or not values.size:
        raise Refused(f"output '{output[:80]}' has shape {values.shape} for {rows} rows: it is to be [N] or [N, columns]")
    values = values.reshape(rows, -1).astype(np.float32)
    if values.shape[1] > MOST_OUTPUTS:
        raise Refused(f"output '{output[:80]}' has {values.shape[1]:,} columns: {MOST_OUTPUTS:,} are the most")
    if not np.isfinite(values).all():
        missing = np.isnan(golden.numbers).any(axis=1)
        hint = ": a feature may be missing, and then it does" if np.isfinite(values[~missing]).all() and missing.any() else ""
        raise Refused(f"output '{output[:80]}' gives NaN or infinity for plausible rows{hint}")
    return values


def _fed(feed: Feed, numbers: np.ndarray) -> np.ndarray:
    columns = numbers[:, list(feed.columns)].astype(feed.input.dtype)
    return columns[:, 0] if feed.input.flat else columns


def _tried(onnx: bytes, weights: bytes, golden: Encoded, expected: np.ndarray) -> np.ndarray:
    """Return the version's golden scores: the model's own, and the same for a row that comes alone."""
    started = process_time()
    try:
        session = open_session(onnx, weights)
        scores, alone = session.run(golden), session.run(golden.take([0]))
    except ArtefactError as error:
        raise Refused(f"the model does not open as a version: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's own errors derive from Exception alone
        raise Refused(f"the model does not answer one row alone: {_plain(error)}") from error
    if (spent := process_time() - started) > MOST_CPU_S:
        raise Refused(
            f"opening the model and asking it {len(golden) + 1} rows takes {spent:.1f} s of processor time: "
            f"{MOST_CPU_S:g} are the most"
        )
    if scores.shape != expected.shape or not np.allclose(scores, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise Refused("wrapped as a version, the model answers otherwise than by itself")
    if alone.shape != (1, scores.shape[1]) or not np.allclose(alone[0], scores[0], rtol=_TOLERANCE, atol=_TOLERANCE):
        raise Refused("the model answers a row otherwise when it comes alone: answers may not depend on the rows beside them")
    return scores


def _plain(error: Exception) -> str:
    """Return what ONNX Runtime says, without where in its own sources it says so."""
    return _PLACE.sub("", first_line(error, 3000))[:300]


def _lineage(model: ModelProto, content: bytes) -> dict[str, Any]:
    return {
        "made": "elsewhere",
        "sha256": hashlib.sha256(content).hexdigest(),
        "producer": readable(model.producer_name[:100]),
        "producer_version": readable(model.producer_version[:100]),
        "opset": {readable(one.domain[:100]) or "ai.onnx": one.version for one in list(model.opset_import)[:20]},
    }
