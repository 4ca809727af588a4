"""Traces where they are off, and where they cannot be had."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from store import tracing
from store.telemetry import Telemetry


def test_off_it_does_nothing_and_asks_for_nothing() -> None:
    with tracing.continued({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}):
        with tracing.span("work", {"a": 1}) as span:
            span.set_attributes({"b": 2})
            assert tracing.carrier() == {}
            assert tracing.trace_id() == ""
        assert tracing.begun("more") is None
        tracing.past("before", 1.0)
    assert tracing.dropped() == 0
    tracing.stop()


def test_an_exception_goes_through_a_span_that_is_none() -> None:
    with pytest.raises(KeyError), tracing.span("work"):
        raise KeyError


def test_off_the_platforms_own_modules_do_not_load_opentelemetry() -> None:
    code = (
        "import sys, serving.traced, trainer.joining; from store import telemetry; telemetry.QUIET.start('replica', 'r')\n"
        "sys.exit(any(name.startswith('opentelemetry.sdk.trace') or 'otlp' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_without_the_extra_it_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: str) -> None:
        return None

    monkeypatch.setattr("store.tracing.find_spec", nothing)
    with pytest.raises(tracing.TracesUnavailable, match=r"pip install 'tidemill\[traces\]'"):
        Telemetry(traces="http://collector:4318").check()
    Telemetry().check()


@pytest.mark.parametrize("wrong", ["collector:4318", "http://", "ftp://collector"])
def test_what_is_no_address_of_a_collector_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="is no collector's address"):
        Telemetry(traces=wrong)
