"""A line's compressed sister: behind every version that the line publishes, the same version compressed.

The graph is quantised once; from then on a child is its parent's weights requantised in numpy. Each is committed under its
parent's position, right after it. A trainer that is killed in between finds its newest version without a child when it
starts again, and makes it then; under one position the sister publishes once.
"""

import asyncio
from dataclasses import dataclass
from time import time

from pydantic import BaseModel, ConfigDict

from store.artefact import ArtefactError, digest_of
from store.encoding import Encoded, Encoder
from store.names import compressed_line, learner_consumer
from store.policy import MAIN
from store.protocols import START, Advance, Commit, Graph, Store, Version, position_key
from store.spec import ModelRecord
from trainer.compression import METHODS, STATIC_INT8, Compressed, compress, requantise
from trainer.compression.logged import newest_rows
from trainer.compression.recipe import Recipe, recipe_of
from trainer.compression.static_int8 import CALIBRATION_ROWS
from trainer.errors import CompressionError


class _State(BaseModel):
    """What a sister remembers beside its position: the graph that its children share, and whose children they are."""

    model_config = ConfigDict(frozen=True)

    method: str
    parent_graph: str
    graph: str


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all children have in common."""

    state: _State
    graph: Graph
    recipe: Recipe


class Sister:
    """The compressed sister of a model's main line, by the method that its declaration names.

    Statically quantised children wait until 100 predictions are logged; all of them then keep the activation scales that
    were calibrated on those.
    """

    def __init__(self, store: Store, record: ModelRecord) -> None:
        self._store = store
        self._record = record
        self._method = METHODS[record.compress]
        self._line = compressed_line(MAIN)
        self._consumer = learner_consumer(record.name, self._line)
        self._at = START
        self._remembered: _State | None = None
        self._shared: _Shared | None = None

    async def start(self) -> None:
        """Take up where the last one stopped."""
        self._at, state = await self._store.consumer(self._consumer)
        self._remembered = _State.model_validate_json(state) if state else None

    async def follow(self, parent: Version, graph: Graph, weights: bytes) -> Version | None:
        """Publish the child of a version, unless there is one already, or its scales cannot be calibrated yet.

        Raises:
            NotApplicable: the method does not apply to this network.
            Fenced: another trainer has taken over.
        """
        if self._remembered is not None and position_key(parent.position) <= position_key(self._at):
            return None
        shared = await self._prepared(graph, weights)
        if shared is None:
            return None
        made: Compressed | None = None
        try:
            made = await asyncio.to_thread(requantise, self._method, shared.graph, shared.recipe, weights)
            child = self._child(parent, shared).model_copy(
                update={"golden": made.golden, "tolerance": made.tolerance, "weights": digest_of(made.weights)}
            )
        except ArtefactError as error:
            child = self._child(parent, shared).model_copy(update={"status": "rejected", "reason": str(error)})
        step = Advance(self._consumer, self._at, parent.position, shared.state.model_dump_json().encode())
        published = await self._store.commit(self._record.name, Commit(step, child, made.weights if made else b""))
        self._at, self._remembered = parent.position, shared.state
        return published

    def _child(self, parent: Version, shared: _Shared) -> Version:
        return Version(
            model=parent.model,
            line=self._line,
            parent=parent.number,
            position=parent.position,
            log_position=parent.log_position,
            created_at=time(),
            graph=shared.graph.digest,
            spec=parent.spec,
            outcomes=parent.outcomes,
            lineage={
                "parent": parent.number,
                "method": self._method.name,
                "cut": f"{self._method.name} of version {parent.number}",
            },
        )

    async def _prepared(self, graph: Graph, weights: bytes) -> _Shared | None:
        """Return what the children share: from before, from the store, or made now; None while it cannot be made."""
        known = self._shared.state if self._shared else self._remembered
        if known is None or (known.method, known.parent_graph) != (self._method.name, graph.digest):
            self._shared = await self._made(graph, weights)
        elif self._shared is None:
            compressed = await self._store.graph(self._record.name, known.graph)
            self._shared = _shared(known, compressed)
        return self._shared

    async def _made(self, graph: Graph, weights: bytes) -> _Shared | None:
        rows: Encoded | None = None
        if self._method is STATIC_INT8:
            logged = await newest_rows(self._store, self._record.name)
            if len(logged) < CALIBRATION_ROWS:
                return None
            rows = Encoder(self._record.features).encode(logged)
        compressed = await asyncio.to_thread(compress, self._method, graph, weights, rows)
        await self._store.put_graph(self._record.name, compressed)
        state = _State(method=self._method.name, parent_graph=graph.digest, graph=compressed.digest)
        return _shared(state, compressed)


def _shared(state: _State, graph: Graph) -> _Shared:
    recipe = recipe_of(graph.onnx)
    if recipe is None:
        raise CompressionError(f"graph {graph.digest} on record for compressed versions was made by no method")
    return _Shared(state, graph, recipe)
