"""What is behind `tracing` where traces are on. Imports OpenTelemetry; only `tracing` imports this."""

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from store.tracing import Begun, Span, Value

log = logging.getLogger(__name__)
SEND_S, PAUSE_S = 2.0, 10.0
"""How long a batch of spans may take on its way, and how long none is sent after one that did not arrive."""

_PROPAGATOR = TraceContextTextMapPropagator()


class Traces:
    """One process's spans: made here, kept in a bounded queue, sent by a thread of its own.

    The provider is no global one: what other libraries trace is theirs. Sampling (OTEL_TRACES_SAMPLER, by default all that
    the caller's own trace does not leave out), the queue (OTEL_BSP_…) and headers for the collector
    (OTEL_EXPORTER_OTLP_HEADERS) are set as everywhere with OpenTelemetry.
    """

    def __init__(self, collector: str, instance: str) -> None:
        self._sender = _Sender(collector)
        resource = Resource.create({"service.name": "tidemill", "service.instance.id": instance})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._sender))
        self._tracer = self._provider.get_tracer("tidemill")

    @property
    def dropped(self) -> int:
        return self._sender.dropped

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, Value] | None, server: bool) -> Generator[Span]:
        kind = trace.SpanKind.SERVER if server else trace.SpanKind.INTERNAL
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as made:
            span = _Current(made)
            try:
                yield span
            except BaseException as error:
                span.fail(error)
                raise

    def past(self, name: str, started: float, attributes: Mapping[str, Value] | None) -> None:
        self._tracer.start_span(name, attributes=attributes, start_time=int(started * 1e9)).end()

    def begun(self, name: str, attributes: Mapping[str, Value] | None) -> Begun | None:
        if not trace.get_current_span().is_recording():
            return None
        return _Begun(self._tracer.start_span(name, attributes=attributes))

    def carrier(self) -> dict[str, str]:
        carried: dict[str, str] = {}
        _PROPAGATOR.inject(carried)
        return carried

    @contextmanager
    def continued(self, carried: Mapping[str, str]) -> Generator[None]:
        token = context.attach(_PROPAGATOR.extract(dict(carried)))
        try:
            yield
        finally:
            context.detach(token)

    def trace_id(self) -> str:
        current = trace.get_current_span().get_span_context()
        return trace.format_trace_id(current.trace_id) if current.is_valid else ""

    def close(self) -> None:
        self._provider.shutdown()


class _Current:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set_attributes(self, attributes: Mapping[str, Value]) -> None:
        self._span.set_attributes(attributes)

    def fail(self, error: BaseException) -> None:
        _fail(self._span, error)


class _Begun:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def end(self, error: BaseException | None = None) -> None:
        if error is not None:
            _fail(self._span, error)
        self._span.end()


def _fail(span: trace.Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)[:300]))


class _Sender(SpanExporter):
    """Sends spans to the collector. While that is away they are dropped and counted, so that the queue before this stays
    short and nobody who makes a span ever meets a full one for long; each outage is logged once."""

    def __init__(self, collector: str) -> None:
        # Its own words for every batch that fails are no help.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._collector = collector
        self._otlp = OTLPSpanExporter(f"{collector.rstrip('/')}/v1/traces", timeout=SEND_S)
        self._away = False
        self._again_at = 0.0
        self.dropped = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if monotonic() >= self._again_at:
            if self._otlp.export(spans) is SpanExportResult.SUCCESS:
                self._away = False
                return SpanExportResult.SUCCESS
            self._again_at = monotonic() + PAUSE_S
            if not self._away:
                log.warning("the collector %s takes no traces: they are dropped until it does", self._collector)
            self._away = True
        self.dropped += len(spans)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._otlp.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True
