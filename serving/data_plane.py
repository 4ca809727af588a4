"""What applications call: predictions and feedback."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, time
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from serving.access import OPERATE, Allowance, Caller
from serving.arms import Arms, queued
from serving.asking import EventTime, Headers, Name, event_seconds
from serving.errors import BadRequest, Forbidden, LogUnavailable, TooLarge, UnknownModel, VersionFailed
from serving.hosted import FORCED_HEADER, Asked, Hosted, State
from serving.http import IDS, answer, place, read_body
from serving.operators import CALLER
from serving.ranking import Lists
from serving.refusals import log_failure
from serving.replica import Replica
from serving.traced import TracedArms
from store.names import log_stream
from store.records import Failures, Feedback, FeedbackBatch, Predictions, item_id, pack_log
from store.spec import ModelRecord

ALLOWANCE = "tidemill.allowance"
"""Where a request's scope says what it may be."""

_FORCED = FORCED_HEADER.encode()
_INLINE_BYTES = 32 * 1024
"""A larger body is worked on in a thread: the loop serves everyone, and inference lets go of the interpreter."""


class FeedbackEvent(TypedDict):
    """One label, as posted."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # pyright: ignore[reportGeneralTypeIssues]

    id: Name
    label: float | bool | Annotated[str, Field(max_length=256)]
    model: NotRequired[Name]
    item: NotRequired[Name]
    at: NotRequired[EventTime]
    source: NotRequired[Annotated[str, Field(max_length=64)]]
    confidence: NotRequired[Annotated[float, Field(ge=0.0, le=1.0)]]


_EVENT = TypeAdapter[FeedbackEvent](FeedbackEvent)


class DataPlane:
    """The routes of the data plane, over one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="predict")
        arms = TracedArms if replica.settings.telemetry.traces else Arms
        self._arms = arms(replica.settings.trial_timeout_s)
        self._lists = Lists(self._arms, replica.settings.token)
        queues = replica.metrics.queues
        queues.labels("reading").set_function(lambda: queued(self.threads))
        for threads in self._arms.waiting:
            queues.labels(threads).set_function(lambda threads=threads: self._arms.waiting[threads])

    async def predict(self, request: Request) -> Response:
        started = perf_counter()
        hosted = self.hosted(request.path_params["model"])
        allowed: Allowance = request.scope[ALLOWANCE]
        body = await read_body(request, allowed.body_bytes)
        self.check_log()
        state = hosted.state
        headers: list[tuple[bytes, bytes]] = request.scope["headers"]
        forced = self.forced(headers)
        if len(body) <= _INLINE_BYTES:
            asked = hosted.read(state, body, headers, forced)
        else:
            loop = asyncio.get_running_loop()
            asked = await loop.run_in_executor(self.threads, hosted.read, state, body, headers, forced)
        request.scope[IDS] = asked.ids
        return await self.answered(hosted, state, asked, allowed, started, _answer)

    async def answered(
        self,
        hosted: Hosted,
        state: State,
        asked: Asked,
        allowed: Allowance,
        started: float,
        respond: Callable[[ModelRecord, Predictions], Response],
    ) -> Response:
        """Run what was asked, log it, and return the response that `respond` makes of it once it is on disk."""
        replica = self._replica
        allowed.check_instances(len(asked.ids))
        allowed.check_time()
        try:
            made = await self._arms.answer(hosted, state, asked, allowed.deadline)
        except VersionFailed as error:
            replica.log.tell(hosted.stream, *self._counted(hosted, error.failures))
            raise
        predictions = made.predictions
        landed = replica.log.submit(hosted.stream, *self._counted(hosted, made.failures), pack_log(predictions))
        # While the entry is on its way to the disk, the answer is made.
        response = respond(hosted.record, predictions)
        await landed
        if made.shadows:
            replica.shadow_queue.offer(hosted, state, made)
        hosted.predictions.inc(len(predictions.ids))
        hosted.sizes.observe(len(predictions.ids))
        hosted.latency.observe(perf_counter() - started)
        return response

    async def rank(self, request: Request) -> Response:
        started = perf_counter()
        replica = self._replica
        hosted = self.hosted(request.path_params["model"])
        allowed: Allowance = request.scope[ALLOWANCE]
        body = await read_body(request, allowed.body_bytes)
        self.check_log()
        allowed.check_time()
        headers: list[tuple[bytes, bytes]] = request.scope["headers"]
        try:
            ranked = await self._lists.page(hosted, hosted.state, body, headers, self.forced(headers), allowed.instances)
        except VersionFailed as error:
            replica.log.tell(hosted.stream, *self._counted(hosted, error.failures))
            raise
        request.scope[IDS] = [ranked.ranking.id]
        failures = self._counted(hosted, ranked.failures)
        await replica.log.submit(hosted.stream, *failures, pack_log(ranked.ranking), pack_log(ranked.predictions))
        hosted.predictions.inc(len(ranked.predictions.ids))
        hosted.sizes.observe(len(ranked.predictions.ids))
        hosted.latency.observe(perf_counter() - started)
        return answer(ranked.content)

    async def feedback(self, request: Request) -> Response:
        allowed: Allowance = request.scope[ALLOWANCE]
        body = await read_body(request, allowed.body_bytes)
        caller: Caller = request.scope[CALLER]
        events = _events(body, allowed.instances)
        accepted: dict[str, list[Feedback]] = {}
        rejected: list[dict[str, Any]] = []
        for index, event in enumerate(events):
            checked = self._check(event, caller)
            if isinstance(checked, str):
                rejected.append({"index": index, "error": checked})
            else:
                accepted.setdefault(checked[0], []).append(checked[1])
        request.scope[IDS] = [one.id for batch in accepted.values() for one in batch]
        at = time()
        await asyncio.gather(
            *(
                self._replica.log.append(log_stream(model), pack_log(FeedbackBatch(at, batch)))
                for model, batch in accepted.items()
            )
        )
        count = sum(map(len, accepted.values()))
        for model, batch in accepted.items():
            self._replica.metrics.feedback.labels(model, "accepted").inc(len(batch))
        if rejected:
            self._replica.metrics.feedback.labels("", "rejected").inc(len(rejected))
        result: dict[str, Any] = {"accepted": count, "rejected": rejected}
        if count:
            return answer(result, 202)
        return answer({"error": f"no event was accepted; event {rejected[0]['index']}: {rejected[0]['error']}"} | result, 422)

    def check_log(self) -> None:
        """Raise LogUnavailable where an answer could not be sent: no work is done for it then. The replica's own task finds
        out when the log is back."""
        replica = self._replica
        if replica.log.away and replica.settings.when_redis_is_away == "durable":
            raise LogUnavailable(f"the prediction log is away ({replica.log.away}); nothing was answered")

    def forced(self, headers: Headers) -> str | None:
        """Return the variant that a tester's request asks for; raises Unauthorized, Forbidden where they are no operator."""
        for name, value in headers:
            if name == _FORCED:
                self._replica.access.expect(headers, OPERATE)
                return value.decode("latin-1")
        return None

    def _counted(self, hosted: Hosted, failures: Sequence[Failures]) -> list[bytes]:
        """Count and log what arms could not answer; return it as log entries, to go with the request's own."""
        for failure in failures:
            self._replica.metrics.failures.labels(hosted.record.name, failure.variant, failure.reason).inc(len(failure.ids))
            log_failure(hosted.record.name, failure)
        return [pack_log(failure) for failure in failures]

    def hosted(self, model: str) -> Hosted:
        """Return a model; raises UnknownModel."""
        hosted = self._replica.models.get(model)
        if hosted is None:
            raise UnknownModel(model, list(self._replica.models))
        return hosted

    def _check(self, event: object, caller: Caller) -> tuple[str, Feedback] | str:
        """Return the event's model and record, or what is wrong with it."""
        try:
            valid = _EVENT.validate_python(event)
        except ValidationError as error:
            return _event_error(error)
        model = valid.get("model") or valid["id"].partition(":")[0]
        hosted = self._replica.models.get(model)
        if hosted is None:
            named = "model" in valid
            return f"no model '{model[:80]}'" if named else "this id was not made here: name its model in 'model'"
        try:
            caller.check_model(model)
        except Forbidden as error:
            return str(error)
        if wrong := hosted.record.label_error(valid["label"]):
            return f"{wrong}, not {valid['label']!r:.80}"
        at = event_seconds(valid["at"]) if "at" in valid else None
        label = valid["label"] if isinstance(valid["label"], str) else float(valid["label"])
        # Whoever does not say where labels come from is known by their key: a source is what is trusted or not.
        source = valid.get("source", "") or (caller.key.name if caller.key is not None else "")
        confidence = valid.get("confidence", 1.0)
        item = valid.get("item", "")
        id_ = item_id(valid["id"], item) if item else valid["id"]
        return model, Feedback(id_, label, at, source, confidence, item)


def _answer(record: ModelRecord, predictions: Predictions) -> Response:
    served, arms = predictions.served, predictions.arms
    answers = [
        {
            "id": id_,
            "output": record.output(outputs),
            "variant": served[arm].variant,
            "version": served[arm].version,
        }
        for id_, outputs, arm in zip(predictions.ids, predictions.outputs, arms, strict=True)
    ]
    return answer({"model": record.name, "predictions": answers})


_BODY = TypeAdapter[dict[str, Any]](dict[str, Any])
_EXPECTED = 'expected {"events": [{"id": …, "label": …}]}'


def _events(body: bytes, limit: int) -> list[object]:
    try:
        parsed = _BODY.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadRequest(f"the body is not a JSON object: {first['msg']}; {_EXPECTED}") from None
    events: Any = parsed.get("events")
    if not isinstance(events, list) or not events:
        raise BadRequest(f"'events' is missing or empty; {_EXPECTED}")
    if len(parsed) > 1:
        raise BadRequest(f"unknown key '{next(key for key in parsed if key != 'events')[:80]}'; {_EXPECTED}")
    if len(events) > limit:
        raise TooLarge(f"{len(events):,} events are too many for one request; send at most {limit:,}")
    return events


def _event_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = place(first["loc"][:1]) or "event"
    return f"{path}: {first['msg']}"
