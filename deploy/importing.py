"""Versions that were made elsewhere: put beside those that the platform trains, on a line of their own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from store.artefact import ArtefactError, digest_of, open_session, unpack_golden
from store.names import compressed_line, learner_consumer
from store.policy import MAIN
from store.protocols import Advance, Commit, Graph, Store, Version

TOLERANCE = 1e-4


async def publish(
    store: Store,
    model: str,
    graph: Graph,
    weights: bytes,
    line: str,
    reason: str = "",
    *,
    parent: int = 0,
    tolerance: float = TOLERANCE,
    lineage: Mapping[str, Any] | None = None,
) -> Version:
    """Publish a graph with its weights as the newest version of a line; return it with its number.

    Raises:
        ValueError: the line is the trainer's own.
        ArtefactError: the graph does not open with these weights, or does not answer its golden inputs.
    """
    if line in (MAIN, compressed_line(MAIN)):
        raise ValueError(f"line '{line}' is the trainer's: name another")
    scores = open_session(graph.onnx, weights).run(unpack_golden(graph.golden_inputs))
    if not np.isfinite(scores).all():
        raise ArtefactError("the version answers its golden inputs with what is no finite number")
    await store.put_graph(model, graph)
    consumer = learner_consumer(model, line)
    at, _ = await store.consumer(consumer)
    count = int(at.partition("-")[0]) + 1
    version = Version(
        model=model,
        line=line,
        parent=parent,
        position=f"{count}-0",
        graph=graph.digest,
        weights=digest_of(weights)[:32],
        golden=tuple(tuple(row) for row in scores.tolist()),
        tolerance=tolerance,
        lineage={"made": "elsewhere", "why": reason} if lineage is None else dict(lineage),
    )
    published = await store.commit(model, Commit(Advance(consumer, at, version.position), version, weights))
    assert published is not None
    return published
