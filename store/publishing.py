"""Versions that were made elsewhere: put beside those that the platform trains, on a line of their own."""

from collections.abc import Mapping
from time import time
from typing import Any

import numpy as np

from store.artefact import ArtefactError, digest_of, open_session, unpack_golden
from store.errors import LineError
from store.lines import read_lines
from store.names import compressed_line, learner_consumer
from store.policy import MAIN
from store.protocols import Advance, Commit, Graph, Store, Version

TOLERANCE = 1e-4
"""How far golden answers may lie apart, for scores of about 1; larger ones get as much more."""


async def publish(
    store: Store,
    model: str,
    graph: Graph,
    weights: bytes,
    line: str,
    reason: str = "",
    *,
    parent: int = 0,
    tolerance: float | None = None,
    lineage: Mapping[str, Any] | None = None,
    at: str | None = None,
) -> Version:
    """Publish a graph with its weights as the newest version of a line; return it with its number.

    Args:
        at: where the line's consumer was when this was decided; None for where it is.

    Raises:
        Fenced: another version was put on the line meanwhile.
        ValueError: the line is the trainer's own.
        LineError: a learner publishes on the line.
        ArtefactError: the graph does not open with these weights, or does not answer its golden inputs.
    """
    if line in (MAIN, compressed_line(MAIN)):
        raise ValueError(f"line '{line}' is the trainer's: name another")
    scores = open_session(graph.onnx, weights).run(unpack_golden(graph.golden_inputs))
    if not np.isfinite(scores).all():
        raise ArtefactError("the version answers its golden inputs with what is no finite number")
    told = lineage if lineage is not None else {"made": "elsewhere", "why": reason}
    return await publish_answered(store, model, graph, weights, scores, line, told, parent=parent, tolerance=tolerance, at=at)


def following(position: str) -> str:
    """Return the position of the next step of a consumer that reads no stream and only counts."""
    return f"{int(position.partition('-')[0]) + 1}-0"


async def publish_answered(
    store: Store,
    model: str,
    graph: Graph,
    weights: bytes,
    scores: np.ndarray,
    line: str,
    lineage: Mapping[str, Any],
    spec: str = "",
    *,
    parent: int = 0,
    tolerance: float | None = None,
    audit: bytes = b"",
    at: str | None = None,
    outcomes: int = 0,
    metrics: Mapping[str, float] | None = None,
) -> Version:
    """Publish likewise, where a process of its own has answered the golden inputs; nothing of the graph runs in this one.

    Args:
        scores: the answers, finite, float32 [golden rows, outputs].
        spec: the digest of the model's declaration.
        tolerance: how far a replica's answers may lie from `scores`; None for float32's own.
        audit: a record of it, kept in the same step; the version's number stands for NUMBER in it.
        at: where the line's consumer was when this was decided; None for where it is.
        outcomes: that it was learned from, and `metrics` what is measured of it.

    Raises:
        Fenced: another version was put on the line meanwhile.
        LineError: a learner publishes on the line.
    """
    if any(one.name == line for one in (await read_lines(store, model)).active):
        raise LineError(f"line '{line}' is published by its learner: name another")
    consumer = learner_consumer(model, line)
    if at is None:
        at, _ = await store.consumer(consumer)
    await store.put_graph(model, graph)
    version = Version(
        model=model,
        line=line,
        parent=parent,
        position=following(at),
        created_at=time(),
        graph=graph.digest,
        weights=digest_of(weights),
        spec=spec,
        outcomes=outcomes,
        metrics=dict(metrics or {}),
        golden=tuple(tuple(row) for row in scores.tolist()),
        tolerance=TOLERANCE * max(1.0, float(np.abs(scores).max(initial=0.0))) if tolerance is None else tolerance,
        lineage=dict(lineage),
    )
    published = await store.commit(model, Commit(Advance(consumer, at, version.position), version, weights, audit))
    assert published is not None
    return published
