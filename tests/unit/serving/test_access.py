"""Limits that several replicas share, by a clock of the test's own."""

import contextlib
import random
from collections.abc import Iterator, Sequence

import pytest

from serving import access
from serving.access import UNLIMITED, Access, Caller
from serving.errors import LimitReached
from store.keys import Key, Limits, issue


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(access, "monotonic", clock)
    return clock


def _fleet(count: int) -> list[Access]:
    return [Access("token", "", required=False, replicas=count) for _ in range(count)]


def _key(**limits: float) -> Key:
    return issue("k", limits=Limits.model_validate(limits))[0]


def _tell(fleet: Sequence[Access]) -> None:
    """What each replica reports comes to all, itself among them."""
    told = [one.asked() for one in fleet]
    for index, one in enumerate(fleet):
        one.divide(told[index], told[:index] + told[index + 1 :])


def _admits(one: Access, key: Key) -> bool:
    try:
        with one.admitted(Caller("k", "predict", key), "m", UNLIMITED):
            return True
    except LimitReached:
        return False


def _seconds(clock: _Clock, fleet: Sequence[Access], count: int) -> Iterator[None]:
    """Each of so many seconds, after which the replicas tell each other."""
    for _ in range(count):
        yield
        _tell(fleet)


@pytest.mark.parametrize("weights", [(1, 0), (1, 1), (9, 1), (5, 3, 1), (0, 0, 0, 1)])
@pytest.mark.parametrize("asked_s", [15, 30, 300])
def test_all_together_keep_to_a_rate_however_requests_are_spread(clock: _Clock, weights: tuple[int, ...], asked_s: int) -> None:
    fleet, key, draw = _fleet(len(weights)), _key(requests_s=20.0), random.Random(5)
    admitted: list[int] = []
    for _ in _seconds(clock, fleet, 60):
        count = 0
        for _ in range(asked_s):
            (one,) = draw.choices(fleet, weights)
            count += _admits(one, key)
            clock.now += 1.0 / asked_s
        admitted.append(count)
    # In the first second nobody knows who is asked, and each has a bucket that is full.
    assert sum(admitted[:3]) <= 3 * 20 + 20
    steady = sum(admitted[10:]) / 50
    assert steady <= 20 * 1.03
    assert steady >= min(asked_s, 20) * (0.97 if asked_s < 20 else 0.93)


@pytest.mark.parametrize(("concurrency", "alone", "evenly"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (10, 10, 5), (11, 11, 5)])
def test_places_go_where_requests_do(clock: _Clock, concurrency: int, alone: int, evenly: int) -> None:
    key = _key(concurrency=concurrency)

    def places(one: Access) -> int:
        with contextlib.ExitStack() as held:
            for number in range(100):
                try:
                    held.enter_context(one.admitted(Caller("k", "predict", key), "m", UNLIMITED))
                except LimitReached:
                    return number
        return 100

    fleet = _fleet(2)
    _tell(fleet)
    assert [places(one) for one in fleet] == [evenly, evenly]
    _tell(fleet)
    assert [places(one) for one in fleet] == [evenly, evenly]
    for _ in _seconds(clock, fleet, 30):
        for _ in range(10):
            _admits(fleet[0], key)
            clock.now += 0.1
    assert places(fleet[0]) == alone


def test_a_replica_that_is_gone_leaves_its_part_to_the_others(clock: _Clock) -> None:
    (first, second), key = _fleet(2), _key(requests_s=10.0)
    for _ in _seconds(clock, (first, second), 5):
        for _ in range(20):
            _admits(first, key)
            _admits(second, key)
            clock.now += 0.05
    first.divide(first.asked(), [])
    clock.now += 1.0
    assert sum(_admits(first, key) for _ in range(50)) == 10


def test_what_was_counted_of_a_key_goes_with_it(clock: _Clock) -> None:
    one = Access("token", "", required=False, replicas=1)
    kept, dropped = _key(requests_s=1.0), _key(requests_s=1.0)
    for key in (kept, dropped):
        assert _admits(one, key)
    with one.admitted(Caller("k", "predict"), "m", Limits(requests_s=1.0)):
        pass
    one.keys = {kept.id: kept}
    one.divide({}, [])
    assert not _admits(one, kept)  # its second is not over
    assert sorted(one.asked()) == sorted([kept.id, "model m"])
    clock.now += 60.0
    assert one.asked() == {}
