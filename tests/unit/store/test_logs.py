"""What a line of the log says, and how many there are in a storm."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from store.logs import MOST, JsonLines, Lines, Throttle


@pytest.fixture
def written() -> Iterator[tuple[logging.Logger, logging.Handler, io.StringIO]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("tidemill.test")
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, handler, stream
    logger.removeHandler(handler)


def _lines(stream: io.StringIO) -> list[dict[str, str | int]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_what_is_known(written: tuple[logging.Logger, logging.Handler, io.StringIO]) -> None:
    logger, handler, stream = written
    handler.setFormatter(JsonLines({"replica": "r1"}))
    logger.warning("answered %d:\n%s", 503, "\x1b[2J odd", extra={"model": "m", "prediction_id": "m:1", "error": ""})
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("it failed")
    first, second = _lines(stream)
    assert str(first.pop("timestamp")).endswith("+00:00")
    assert str(first.pop("message")).startswith("answered 503:\n")
    assert first == {"level": "WARNING", "logger": "tidemill.test", "replica": "r1", "model": "m", "prediction_id": "m:1"}
    assert "ValueError: wrong" in str(second["exception"])


def test_people_read_the_same_in_a_line(written: tuple[logging.Logger, logging.Handler, io.StringIO]) -> None:
    logger, handler, stream = written
    handler.setFormatter(Lines({"replica": "r1"}))
    logger.warning("answered %d", 503, extra={"prediction_id": "m:1"})
    assert stream.getvalue().endswith(" WARNING tidemill.test: answered 503 replica=r1 prediction_id=m:1\n")


def test_a_storm_is_a_few_lines_and_says_how_many_it_left_out(
    written: tuple[logging.Logger, logging.Handler, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, handler, stream = written
    handler.setFormatter(JsonLines({}))
    handler.addFilter(Throttle(period_s=10.0))
    now = 100.0
    monkeypatch.setattr("store.logs.monotonic", lambda: now)
    for number in range(1000):
        logger.warning("overloaded %d", number, extra={"error": "Overloaded"})
    logger.warning("overloaded %d", 1, extra={"error": "VersionFailed"})
    assert [line["error"] for line in _lines(stream)] == ["Overloaded"] * MOST + ["VersionFailed"]
    now += 10.0
    logger.warning("overloaded %d", 1000, extra={"error": "Overloaded"})
    assert _lines(stream)[-1]["left_out"] == 1000 - MOST
    logger.warning("overloaded %d", 1001, extra={"error": "Overloaded"})
    assert "left_out" not in _lines(stream)[-1]


def test_messages_that_are_never_twice_the_same_do_not_gather() -> None:
    throttle = Throttle()
    for number in range(5000):
        assert throttle.filter(logging.makeLogRecord({"name": "x", "msg": f"{number}"}))
    assert len(throttle._kinds) <= 1000  # pyright: ignore[reportPrivateUsage]
