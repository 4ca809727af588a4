"""Ranked lists: one variant's, or several variants' drafted together, in pages; the other's list where one fails."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from time import time
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from router import Plan
from router.interleaving import NOBODY, STRATEGIES, Draft
from serving.arms import Arms, failure_of
from serving.asking import EventTime, Headers, Name, event_seconds, named_headers, new_id, refusal_of
from serving.cursor import CURSOR_BYTES, Cursors, Listing
from serving.errors import BadRequest, Invalid, NotReady, VersionFailed
from serving.hosted import Hosted, State
from store.records import Failures, Predictions, Rankings, Served, item_id
from store.schema import Row

MOST_SHOWN = 200
"""Positions that a draft and its pages go on for."""


class _Candidate(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # pyright: ignore[reportGeneralTypeIssues]

    item: Name
    features: NotRequired[dict[str, Any]]


class _Body(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # pyright: ignore[reportGeneralTypeIssues]

    candidates: Annotated[list[_Candidate], Field(min_length=1, max_length=10_000)]
    unit: NotRequired[Name]
    context: NotRequired[dict[str, Any]]
    k: NotRequired[Annotated[int, Field(ge=1, le=MOST_SHOWN)]]
    cursor: NotRequired[Annotated[str, Field(max_length=CURSOR_BYTES)]]
    at: NotRequired[EventTime]


_INLINE_BYTES = 32 * 1024
_INLINE_DRAFT = 50
_BODY = TypeAdapter[_Body](_Body)
_EXPECTED = 'expected {"candidates": [{"item": …, "features": {…}}]}'


@dataclass(frozen=True, slots=True)
class Ranked:
    """A page: what is answered and what is logged."""

    content: dict[str, Any]
    ranking: Rankings
    predictions: Predictions
    failures: list[Failures]


class Lists:
    """Makes the pages of one replica. `key` signs cursors, so that nobody credits clicks as they please."""

    def __init__(self, arms: Arms, key: str) -> None:
        self._arms = arms
        self._cursors = Cursors(key)

    async def page(
        self, hosted: Hosted, state: State, body: bytes, headers: Headers, forced: str | None, max_candidates: int
    ) -> Ranked:
        """Return the list's next page.

        Raises:
            BadRequest, Invalid: the body is not a request for a list; the text names the field.
            NotReady, VersionFailed: no ranker could make a list.
        """
        at = time()
        if len(body) <= _INLINE_BYTES:
            request, items, rows = self._read(hosted, body, at, max_candidates)
        else:
            request, items, rows = await asyncio.to_thread(self._read, hosted, body, at, max_candidates)
        failures: list[Failures] = []
        if "cursor" in request:
            listing = self._cursors.resumed(request["cursor"], request.get("unit"))
            if not listing.id.startswith(f"{hosted.record.name}:"):
                raise Invalid(f"cursor: it goes on with a list of another model than '{hosted.record.name}'")
        else:
            listing = await self._drafted(hosted, state, request, items, rows, at, headers, forced, failures)
        return self._page(hosted, request, listing, dict(zip(items, rows, strict=True)), at, failures)

    def _read(self, hosted: Hosted, body: bytes, at: float, max_candidates: int) -> tuple[_Body, list[str], list[Row]]:
        """Return a request, its items, and their rows, whose streaming features are as of this page."""
        if hosted.record.outputs != 1:
            raise BadRequest(f"model '{hosted.record.name}' is {hosted.record.objective}: it has no one score to rank by")
        try:
            request = _BODY.validate_json(body)
        except ValidationError as error:
            raise refusal_of(error, "candidates", _EXPECTED) from None
        if len(request["candidates"]) > max_candidates:
            raise Invalid(f"candidates: more than {max_candidates:,}; rank the best of them")
        items = [one["item"] for one in request["candidates"]]
        if len(set(items)) != len(items):
            raise Invalid("candidates: an item is there twice")
        rows = hosted.rows([request.get("context", {}) | one.get("features", {}) for one in request["candidates"]])
        event_time = _event_time(hosted, request)
        # A list without a unit is one of its own, of which nothing is known yet.
        unit, as_of = request.get("unit", ""), at if event_time is None else event_time
        hosted.fill(rows, [unit] * len(rows), [as_of] * len(rows))
        hosted.look(rows, as_of)
        return request, items, rows

    async def _drafted(
        self,
        hosted: Hosted,
        state: State,
        request: _Body,
        items: list[str],
        rows: list[Row],
        at: float,
        headers: Headers,
        forced: str | None,
        failures: list[Failures],
    ) -> Listing:
        id_ = new_id(hosted.record.name, at) + "r"
        unit = request.get("unit") or id_
        k = min(request.get("k", 10), len(items))
        planner = state.planner
        context = request.get("context", {})
        named = named_headers(headers) if planner.asks_headers else {}
        together = planner.interleaved(unit, context, named) if forced is None else None
        if together is None:
            plan = planner.plan(unit, context, named) if forced is None else hosted.forced(state, forced)
            runs = [await self._ranked(hosted, state, plan, id_, unit, rows, at, failures)]
            if runs[0] is None:
                plan = Plan(state.snapshot.policy.default, 0.0)
                runs = [await self._ranked(hosted, state, plan, id_, unit, rows, at, failures)]
            rankers, experiment, strategy = [plan.variant], "", ""
        else:
            plan = Plan(state.snapshot.policy.default, 0.0)
            rankers, experiment, strategy = list(together.rankers), together.experiment, together.strategy
            trials = [Plan(variant, 0.0, (experiment,)) for variant in rankers]
            runs = [await self._ranked(hosted, state, trial, id_, unit, rows, at, failures, True) for trial in trials]
        lists = [run[0] if run is not None else None for run in runs]
        made = [scores for scores in lists if scores is not None]
        if not made:
            raise VersionFailed("no ranker could make a list: " + "; ".join(one.text for one in failures), failures)
        sign = -1.0 if hosted.record.best_score == "highest" else 1.0
        orders = [[] if scores is None else [items[i] for i in np.argsort(sign * scores, kind="stable")] for scores in lists]
        seed = secrets.randbits(62)
        most = min(len(items), MOST_SHOWN)
        # A linear programme takes its time, and so does a long draft; the loop serves everyone.
        if strategy == "optimised" or (strategy and most > _INLINE_DRAFT):
            draft = await asyncio.to_thread(_draft, orders, strategy, k, most, seed)
        else:
            draft = _draft(orders, strategy, k, most, seed)
        place = {item: index for index, item in enumerate(items)}
        scores = [
            float((made[0] if team == NOBODY or lists[team] is None else lists[team])[place[item]])  # pyright: ignore[reportOptionalSubscript]
            for item, team in zip(draft.items, draft.teams, strict=True)
        ]
        versions = [live.number if (live := state.live.get(ranker)) is not None else 0 for ranker in rankers]
        return Listing(
            id_, unit, 0, list(draft.items), list(draft.teams), seed, rankers, versions, scores, experiment,
            plan.experiments, plan.propensity, draft.once, state.snapshot.epoch,
            [run[1] if run is not None else 0.0 for run in runs],
        )  # fmt: skip

    async def _ranked(
        self,
        hosted: Hosted,
        state: State,
        plan: Plan,
        id_: str,
        unit: str,
        rows: list[Row],
        at: float,
        failures: list[Failures],
        together: bool = False,
    ) -> tuple[np.ndarray, float] | None:
        """Return a variant's scores of the candidates and the seconds they took; None, with a failure noted, where another
        can answer for it."""
        on_trial = together or (plan.propensity > 0.0 and plan.variant != state.snapshot.policy.default)
        try:
            scores, seconds = await self._arms.run(hosted, plan.variant, hosted.live(state, plan.variant), rows, on_trial)
        except (VersionFailed, NotReady, TimeoutError) as error:
            if isinstance(error, NotReady) and not on_trial:
                raise
            failures.append(failure_of(error, state, plan, on_trial, at, [id_], [unit]))
            if not on_trial:
                raise VersionFailed(str(error), failures) from error
            return None
        return scores[:, 0], seconds

    def _page(
        self,
        hosted: Hosted,
        request: _Body,
        listing: Listing,
        rows: dict[str, Row],
        at: float,
        failures: list[Failures],
    ) -> Ranked:
        k = request.get("k", 10)
        # Candidates may have gone since the first page; those that are left keep their places' order.
        left = [place for place in range(listing.shown, len(listing.items)) if listing.items[place] in rows]
        places = left[:k]
        items = [listing.items[place] for place in places]
        teams = [listing.teams[place] for place in places]
        event_time = _event_time(hosted, request)
        ranking = Rankings(
            at=at,
            id=listing.id,
            unit=listing.unit,
            items=items,
            teams=teams,
            start=listing.shown,
            seed=listing.seed,
            rankers=listing.rankers,
            versions=listing.versions,
            experiment=listing.experiment,
            epoch=listing.epoch,
            once=listing.once,
            event_time=event_time,
        )
        scores = [listing.scores[place] for place in places]
        served = [
            Served(ranker, version, listing.propensity, listing.experiments, seconds, listing.epoch)
            for ranker, version, seconds in zip(listing.rankers, listing.versions, listing.seconds, strict=True)
        ]
        predictions = Predictions(
            at=at,
            ids=[item_id(listing.id, item) for item in items],
            units=[listing.unit] * len(items),
            rows=[rows[item] for item in items],
            outputs=[[score] for score in scores],
            served=served,
            arms=[max(team, 0) for team in teams],
            latency_s=time() - at,
            event_times=[event_time if event_time is not None else at] * len(items) if hosted.record.clock == "event" else None,
        )
        after = places[-1] + 1 if places else len(listing.items)
        content: dict[str, Any] = {
            "model": hosted.record.name,
            "id": listing.id,
            "cursor": self._cursors.after(listing, after) if len(left) > len(places) else None,
            "items": [
                {
                    "item": item,
                    "position": listing.shown + offset,
                    "score": score,
                    "variant": listing.rankers[max(team, 0)],
                    "version": listing.versions[max(team, 0)],
                }
                for offset, (item, score, team) in enumerate(zip(items, scores, teams, strict=True), 1)
            ],
        }
        return Ranked(content, ranking, predictions, failures)


def _event_time(hosted: Hosted, request: _Body) -> float | None:
    return event_seconds(request["at"]) if hosted.record.clock == "event" and "at" in request else None


def _draft(orders: Sequence[Sequence[str]], strategy: str, k: int, most: int, seed: int) -> Draft:
    """Draw a list and the pages after it: one ranker's order as it is, or a strategy's draft, which begins alike whatever its
    length. Of the optimised strategy, where that is not so, the first page is the draft, and what follows credits nobody."""
    if len(orders) == 1:
        return Draft(tuple(orders[0][:most]), (0,) * min(most, len(orders[0])), seed, 1)
    if strategy != "optimised":
        return STRATEGIES[strategy](orders, most, seed)
    first = STRATEGIES[strategy](orders, k, seed)
    shown = set(first.items)
    rest = tuple(dict.fromkeys(item for order in orders for item in order if item not in shown))[: most - len(first.items)]
    return Draft(first.items + rest, first.teams + (NOBODY,) * len(rest), seed, first.rankers, first.once)
