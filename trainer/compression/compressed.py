"""From a version to its compressed child: the first time with a quantiser, from then on by the recipe."""

from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load

from store.artefact import ArtefactError, Session, open_session, pack_weights, unpack_golden
from store.encoding import Encoded
from store.protocols import Graph
from trainer.compression.layout import apart, whole
from trainer.compression.method import Method
from trainer.compression.recipe import Recipe, recipe_of
from trainer.errors import CompressionError
from trainer.quiet import quiet


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed version, opened as a replica opens it; `tolerance` is what its record allows its golden answers."""

    graph: Graph
    weights: bytes
    session: Session
    golden: tuple[tuple[float, ...], ...]
    tolerance: float


def compress(method: Method, graph: Graph, weights: bytes, rows: Encoded | None = None) -> Graph:
    """Return the graph of a version's compressed children; `rows` are what static scales are calibrated on.

    Raises:
        NotApplicable: the method does not apply to this version.
        CompressionError: the version is compressed already.
    """
    if (known := recipe_of(graph.onnx)) is not None:
        raise CompressionError(f"it is compressed already, by {known.method}: compress the version it was made of")
    tensors = load(weights)
    with quiet():
        model, steps = method.build(whole(graph, tensors), rows)
    return apart(model, Recipe(method=method.name, steps=steps), tensors, graph.golden_inputs)


def requantise(method: Method, graph: Graph, recipe: Recipe, weights: bytes) -> Compressed:
    """Return the compressed child of a version with these weights, in a graph that `compress` made.

    Raises:
        CompressionError: the weights are of another network.
        ArtefactError: the result does not open, or its golden answers are not finite.
    """
    packed = pack_weights(recipe.tensors(load(weights)))
    session = open_session(graph.onnx, packed)
    scores = session.run(unpack_golden(graph.golden_inputs))
    if not np.isfinite(scores).all():
        raise ArtefactError(f"compressed by {method.name} it answers its golden inputs with what is no finite number")
    tolerance = method.tolerance * max(1.0, float(np.abs(scores).max(initial=0.0)))
    return Compressed(graph, packed, session, tuple(tuple(row) for row in scores.tolist()), tolerance)
