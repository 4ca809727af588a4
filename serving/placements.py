"""What operators call about where variants answer."""

from typing import Any

from pydantic import RootModel
from starlette.requests import Request
from starlette.responses import Response

from router.rollout import Move, outline
from serving.dedicated.link import app_name
from serving.errors import Invalid
from serving.http import answer
from serving.operators import Operators
from store.errors import EpochConflict
from store.placement import Dedicated, Placement
from store.policy import Policy, Variant

_TRIES = 5


class PlaceRequest(RootModel[Placement]):
    """Where to put a variant."""


class Placements:
    """The routes of a variant's placement."""

    def __init__(self, operators: Operators, prefix: str) -> None:
        self._operators = operators
        self._prefix = prefix

    async def show(self, request: Request) -> Response:
        return answer(await self._state(request))

    async def place(self, request: Request) -> Response:
        """Put a variant elsewhere. Answers when every replica has been told; requests are answered where they were until the
        variant's hosts are ready."""
        model = self._operators.model(request)
        placement = (await self._operators.body(request, PlaceRequest)).root
        for left in reversed(range(_TRIES)):
            current = await self._operators.store.snapshot(model)
            name = _variant(request, current.policy).name
            variants = tuple(
                variant.model_copy(update={"placement": placement}) if variant.name == name else variant
                for variant in current.policy.variants
            )
            policy = current.policy.model_copy(update={"variants": variants})
            why = f"an operator placed variant '{name}': {placement.kind}"
            move = Move(policy, "place", "", outline(current.policy), outline(policy), why)
            try:
                await self._operators.install(model, current, move, self._operators.who(request))
                break
            except EpochConflict:
                # It changes one variant alone, whatever else has been changed meanwhile.
                if not left:
                    raise
        return answer(await self._state(request))

    async def _state(self, request: Request) -> dict[str, Any]:
        model = self._operators.model(request)
        variant = _variant(request, (await self._operators.store.snapshot(model)).policy)
        reports = await self._operators.store.reports()
        wanted = app_name(self._prefix, model, variant) if isinstance(variant.placement, Dedicated) else ""
        replicas = {
            report.name: report.applied[model].placed.get(variant.name, "")
            for report in reports
            if report.role == "replica" and model in report.applied
        }
        problem = f"deployment of {model}/{variant.name}"
        return {
            "model": model,
            "variant": variant.name,
            "placement": variant.placement.model_dump(),
            "application": wanted,
            "moved": bool(replicas) and all(app == wanted for app in replicas.values()),
            "replicas": replicas,
            "hosts": [
                {"name": report.name, "pid": report.pid, "ready": report.ready, "away": report.away, **report.counters}
                for report in reports
                if report.role == "host" and report.counters["app"] == wanted
            ],
            "problem": next((report.away[problem] for report in reports if problem in report.away), ""),
        }


def _variant(request: Request, policy: Policy) -> Variant:
    wanted = request.path_params["variant"]
    for variant in policy.variants:
        if variant.name == wanted:
            return variant
    raise Invalid(f"there is no variant '{wanted[:64]}' among {', '.join(variant.name for variant in policy.variants)}")
