"""Opens versions from the store: fetched, checked against their record, warmed up."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import NamedTuple

from store.artefact import SMALL_BYTES, Provider, Session, check_digests, check_golden, open_session
from store.protocols import Graph, Version
from store.redis_store import RedisStore

_GRAPHS = 32
"""How many graphs are kept: versions of one architecture share theirs."""


class Opened(NamedTuple):
    """An open version, its record, and the seconds of a run when it was warm."""

    version: Version
    session: Session
    run_s: float


class Opener:
    """Opens versions for one process.

    Args:
        providers: execution providers in order; those that are not on this machine are passed over.
        threads: that one run may use.
    """

    def __init__(self, store: RedisStore, providers: Sequence[Provider] = ("cpu",), threads: int = 1) -> None:
        self._store = store
        self._providers, self._threads = providers, threads
        self._graphs: OrderedDict[tuple[str, str], Graph] = OrderedDict()

    async def open(self, model: str, number: int) -> Session:
        """Return a version's session, warmed up.

        Raises:
            NotFound: there is no such version any more.
            ArtefactError: it is not what its record says.
            Unavailable: the store is away.
        """
        return (await self.opened(model, number)).session

    async def opened(self, model: str, number: int, quick: bool = False) -> "Opened":
        """Return a version with its record; raises as `open` does.

        Args:
            quick: whether it is likely to open and run as fast as a thread is woken.
        """
        version, weights = await asyncio.gather(self._store.version(model, number), self._store.weights(model, number))
        graph = await self._graph(model, version.graph)
        opening = partial(_opened, version, graph, weights, self._providers, self._threads)
        # One that is large, or may be slow, would hold up everybody's answers.
        large = len(weights) + len(graph.onnx) >= SMALL_BYTES
        return opening() if quick and not large else await asyncio.to_thread(opening)

    async def _graph(self, model: str, digest: str) -> Graph:
        graph = self._graphs.get((model, digest)) or await self._store.graph(model, digest)
        self._graphs[model, digest] = graph
        self._graphs.move_to_end((model, digest))
        while len(self._graphs) > _GRAPHS:
            self._graphs.popitem(last=False)
        return graph


def _opened(version: Version, graph: Graph, weights: bytes, providers: Sequence[Provider], threads: int) -> Opened:
    check_digests(version, graph, weights)
    session = open_session(graph.onnx, weights, providers, threads)
    check_golden(session, graph.golden_inputs, version.golden, version.tolerance)
    started = perf_counter()
    check_golden(session, graph.golden_inputs, version.golden, version.tolerance)
    return Opened(version, session, perf_counter() - started)
