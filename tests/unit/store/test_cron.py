"""Cron times: which expressions are taken, and when they are due."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from store.cron import Cron
from store.spec import Schedule

BERLIN = ZoneInfo("Europe/Berlin")
YEAR_S = 365 * 86_400.0


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("* * * *", "4 fields"), ("* * * * * *", "6 fields"), ("@daily", "1 fields"), ("", "0 fields"),
        ("61 * * * *", "minute"), ("* 24 * * *", "hour"), ("0 0 31 2 *", "day-of-month"), ("0 0 * 13 *", "month"),
        ("0 0 * * 8", "day-of-week"), ("x * * * *", "minute"), ("*/0 * * * *", "minute"),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused_in_words(expression: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Cron(expression)
    with pytest.raises(ValidationError, match=says):
        Schedule(cron=expression)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "", "Europe", "\0"])
def test_a_time_zone_that_there_is_not_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="timezone"):
        Cron("0 3 * * *", zone)
    with pytest.raises(ValidationError, match="timezone"):
        Schedule(timezone=zone)


def test_a_time_zone_says_when_a_time_of_day_is() -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=BERLIN).timestamp()
    assert Cron("0 12 * * *", "Europe/Berlin").latest(noon) == noon
    assert Cron("0 12 * * *").latest(noon) == noon - 22 * 3600
    assert Cron("0 12 * * *", "Europe/Berlin").following(noon) == noon + 86_400


def test_a_time_that_the_clocks_skip_or_repeat_comes_once() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    for day in (datetime(2026, 3, 29, tzinfo=BERLIN), datetime(2026, 10, 25, tzinfo=BERLIN)):
        start, end = day.timestamp(), day.replace(hour=23).timestamp()
        due = cron.following(start)
        assert start < due < end < cron.following(due)
        assert cron.latest(end) == due


@pytest.mark.parametrize("minutes_late", [0, 1, 29, 59, 61, 89, 121])
@pytest.mark.parametrize(("zone", "day"), [("Europe/Berlin", (2026, 10, 25)), ("America/New_York", (2026, 11, 1))])
def test_a_time_in_the_hour_that_is_repeated_is_known_however_late_it_is_asked_for(
    minutes_late: int, zone: str, day: tuple[int, int, int]
) -> None:
    hour = 2 if zone == "Europe/Berlin" else 1
    cron, first = Cron(f"30 {hour} * * *", zone), datetime(*day, hour, 30, tzinfo=ZoneInfo(zone)).timestamp()
    assert cron.latest(first + 60 * minutes_late) == first


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["0 3 * * *", "*/15 * * * *", "30 2 * * MON-FRI", "15 1 1 * *", "0 */6 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.floats(min_value=1.7e9, max_value=1.7e9 + 2 * YEAR_S),
)
@example("0 */6 * * *", "Australia/Lord_Howe", 1_728_135_000.0)  # clocks go on by half an hour
@example("30 2 * * MON-FRI", "Europe/Berlin", datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC).timestamp())
def test_nothing_is_due_between_the_latest_time_and_the_next(expression: str, zone: str, at: float) -> None:
    cron = Cron(expression, zone)
    latest, following = cron.latest(at), cron.following(at)
    assert latest <= at < following
    assert cron.latest(following - 1) == latest
    assert cron.following(latest) == following
    assert cron.latest(latest) == latest
