"""Drift by simulation: changes are found soon, and where there are none, next to nothing is."""

import pytest

from store.drift import Drift
from tests.bench.drift import CHANGE, DAY, Shape, judge, ours, stream

pytestmark = pytest.mark.simulation
WITHIN = 3 * Drift().short
"""Outcomes within which a sudden change is found, whatever the seed."""


def test_a_sudden_change_is_found_soon_in_every_stream() -> None:
    found = judge((one, ours("sudden", one)) for one in (stream("sudden", seed) for seed in range(6)))
    assert len(found.delays) == 6
    assert max(found.delays) <= WITHIN


BROKEN: Shape = "seasonal, then sudden"


@pytest.mark.parametrize("shape", ["gradual", "incremental"])
def test_a_slow_change_is_found_before_it_is_over(shape: Shape) -> None:
    found = judge((one, ours(shape, one)) for one in (stream(shape, seed) for seed in range(3)))
    assert len(found.delays) == 3
    assert max(found.delays) <= 5_000


def test_there_are_fewer_false_alarms_than_were_accepted() -> None:
    # At a level where there are some to be counted; 240,000 outcomes are 72 alarms at most on the average.
    alarms = sum(len(ours("none", stream("none", seed), false_alarms=300.0)) for seed in range(3))
    assert 1 <= alarms <= 72
    assert sum(len(ours("none", stream("none", seed))) for seed in range(4)) == 0


def test_a_season_is_no_alarm_after_two_cycles() -> None:
    alarms = [at for seed in range(4) for at in ours("seasonal", stream("seasonal", seed))]
    assert [at for at in alarms if at > 2 * DAY] == []


def test_without_being_told_of_the_season_it_would_be() -> None:
    assert len(ours("seasonal", stream("seasonal", 0), season=None)) > 10


def test_a_change_of_a_season_is_found() -> None:
    found = judge((one, ours(BROKEN, one)) for one in (stream(BROKEN, seed) for seed in range(3)))
    assert len(found.delays) == 3
    assert max(found.delays) <= WITHIN
    assert CHANGE > 2 * DAY
