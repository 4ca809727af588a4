"""Traces of OpenTelemetry: spans that a process sends to a collector, once it was told where one is, and none before.

A process without `start` never imports OpenTelemetry, and all of this does nothing there. What another process is to go on
with travels as W3C trace context: `carrier` says where a trace is, `continued` takes it up.

    headers = tracing.carrier()  # with the request to the other process
    with tracing.continued(headers), tracing.span("model"):  # there
        ...
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from store.otlp import Traces

Value = str | bool | int | float | list[str]
W3C = ("traceparent", "tracestate")
"""The headers that carry a trace."""

_EXPORTER = "opentelemetry.exporter.otlp"
_traces: "Traces | None" = None


class TracesUnavailable(RuntimeError):
    """Traces are asked for, and what sends them is not installed."""


class Span(Protocol):
    """What can be said of a piece of work while it lasts."""

    def set_attributes(self, attributes: Mapping[str, Value]) -> None: ...

    def fail(self, error: BaseException) -> None:
        """Say that it failed, and with what."""
        ...


class Begun(Protocol):
    def end(self, error: BaseException | None = None) -> None:
        """Say that it is over, or failed."""
        ...


def check() -> None:
    """Raise TracesUnavailable where `start` would."""
    try:
        found = find_spec(f"{_EXPORTER}.proto.http")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise TracesUnavailable("traces need what comes with the extra 'traces': pip install 'tidemill[traces]'")


def start(collector: str, instance: str) -> None:
    """Send this process's spans from now on; a second call does nothing.

    Args:
        collector: where OTLP over HTTP is taken, such as http://collector:4318.
        instance: which of the platform's processes this is.

    Raises:
        TracesUnavailable.
    """
    global _traces  # noqa: PLW0603 - like the context that spans lie in, it belongs to the process
    check()
    from store.otlp import Traces  # noqa: PLC0415 - OpenTelemetry, which nobody else needs

    if _traces is None:
        _traces = Traces(collector, instance)


def stop() -> None:
    """Send what waits, and end; with the collector away this takes seconds."""
    global _traces
    traces, _traces = _traces, None
    if traces is not None:
        traces.close()


def span(name: str, attributes: Mapping[str, Value] | None = None, *, server: bool = False) -> AbstractContextManager[Span]:
    """Return a span around a piece of work, inside the one that is current; an exception that leaves it fails it.

    Args:
        server: whether this is the work that a request from outside asked for.
    """
    return _NOTHING if _traces is None else _traces.span(name, attributes, server)


def past(name: str, started: float, attributes: Mapping[str, Value] | None = None) -> None:
    """Tell of work that has just ended, and began at `started` seconds since 1970."""
    if _traces is not None:
        _traces.past(name, started, attributes)


def begun(name: str, attributes: Mapping[str, Value] | None = None) -> "Begun | None":
    """Return a span that ends elsewhere, where whoever holds it says so; None outside of every trace."""
    return None if _traces is None else _traces.begun(name, attributes)


def carrier() -> dict[str, str]:
    """Return the current trace as headers; none where there is no trace."""
    return {} if _traces is None else _traces.carrier()


def continued(carried: Mapping[str, str]) -> AbstractContextManager[None]:
    """Return a context whose spans belong to a trace that came from elsewhere; what is no trace is not taken up."""
    return nullcontext() if _traces is None or not carried else _traces.continued(carried)


def trace_id() -> str:
    """Return the current trace's id, 32 hexadecimal digits; empty where there is none."""
    return "" if _traces is None else _traces.trace_id()


def dropped() -> int:
    """Return how many of this process's spans the collector did not get."""
    return 0 if _traces is None else _traces.dropped


class _NoSpan:
    def set_attributes(self, attributes: Mapping[str, Value]) -> None:
        pass

    def fail(self, error: BaseException) -> None:
        pass


_NOTHING: AbstractContextManager[Span] = nullcontext(_NoSpan())
