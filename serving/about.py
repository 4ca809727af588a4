"""What a replica says of itself: whether it lives, whether it can answer, what can be asked of it, its metrics."""

import contextlib
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serving import ingress
from serving.access import Caller
from serving.http import answer
from serving.metrics import joined, merged
from serving.openapi import document
from serving.operators import CALLER
from serving.replica import Replica
from store.errors import Unavailable


class About:
    """The routes that are about the platform itself, over one replica. A key for some models sees no other's name."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def live(self, _: Request) -> Response:
        return answer({"status": "alive", "replica": self._replica.name})

    async def ready(self, request: Request) -> Response:
        replica = self._replica
        state: dict[str, Any] = {"ready": replica.ready}
        if (caller := replica.access.known(request.scope["headers"])) is not None:
            waiting = [name for name in replica.waiting if caller.sees(name)]
            state |= {"replica": replica.name, "models": self._seen_by(caller), "waiting": waiting, "away": replica.away}
        return answer(state, 200 if replica.ready else 503, None if replica.ready else {"retry-after": "1"})

    async def openapi(self, request: Request) -> Response:
        return answer(document(self._seen_by(request.scope[CALLER])))

    async def metrics(self, _: Request) -> Response:
        """Those of all replicas, trainers and hosts, as far as the store has them; else this replica's own."""
        replica = self._replica
        await replica.measure()
        expositions = {replica.name: replica.report().metrics}
        with contextlib.suppress(Unavailable):
            expositions |= {report.name: report.metrics for report in await replica.store.reports()} | expositions
        expositions[ingress.NAME] = await ingress.exposition()
        return Response(await joined(merged(expositions.items())), media_type="text/plain; version=0.0.4")

    def _seen_by(self, caller: Caller) -> list[str]:
        return sorted(name for name in self._replica.models if caller.sees(name))
