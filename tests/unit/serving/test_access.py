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
    """What each replica reports comes to all others."""
    told = [one.used() for one in fleet]
    for index, one in enumerate(fleet):
        one.divide(told[:index] + told[index + 1 :])


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


def _at_once(one: Access, key: Key, stack: contextlib.ExitStack) -> int:
    """Take all places that there are; return how many."""
    for number in range(200):
        try:
            stack.enter_context(one.admitted(Caller("k", "predict", key), "m", UNLIMITED))
        except LimitReached:
            return number
    return 200


@pytest.mark.parametrize("weights", [(1, 0), (1, 1), (9, 1), (5, 3, 1), (0, 0, 0, 1), (1,) * 8])
@pytest.mark.parametrize(("limit", "asked_s"), [(20, 15), (20, 30), (20, 300), (3, 2), (3, 30)])
def test_all_together_keep_to_a_rate_however_requests_are_spread(
    clock: _Clock, weights: tuple[int, ...], limit: int, asked_s: int
) -> None:
    fleet, key, draw = _fleet(len(weights)), _key(requests_s=limit), random.Random(5)
    admitted: list[int] = []
    for _ in _seconds(clock, fleet, 60):
        count = 0
        for _ in range(asked_s):
            (one,) = draw.choices(fleet, weights)
            count += _admits(one, key)
            clock.now += 1.0 / asked_s
        admitted.append(count)
    # At first each has a full bucket, and nobody knows of the others.
    assert sum(admitted[:3]) <= (3 + 2 * sum(map(bool, weights))) * limit
    steady = sum(admitted[10:]) / 50
    assert steady <= limit * (1.03 if len(fleet) < 8 else 1.15)  # small parts are told less exactly
    assert steady >= min(asked_s, limit) * 0.9


@pytest.mark.parametrize("limit", [0.01, 0.1, 1.0, 20.0])
def test_one_that_gets_all_requests_lets_all_through(clock: _Clock, limit: float) -> None:
    fleet, key = _fleet(8), _key(requests_s=limit)
    _tell(fleet)
    for _ in range(100):
        assert _admits(fleet[0], key)
        for _ in range(4):
            clock.now += 0.26 / limit
            _tell(fleet)


def test_one_that_was_not_asked_takes_over_at_once(clock: _Clock) -> None:
    """The first is asked for half of a limit, and stands still: the second does not know that yet."""
    (first, second), key = _fleet(2), _key(requests_s=20.0, concurrency=8)
    for _ in _seconds(clock, (first, second), 10):
        for _ in range(10):
            assert _admits(first, key)
            clock.now += 0.1
    for _ in range(50):
        assert _admits(second, key)
        clock.now += 0.1
    with contextlib.ExitStack() as held:
        assert _at_once(second, key, held) == 7


@pytest.mark.parametrize(("concurrency", "alone", "evenly"), [(2, 2, 1), (3, 3, 1), (10, 10, 5), (11, 11, 5)])
def test_places_go_where_requests_do(clock: _Clock, concurrency: int, alone: int, evenly: int) -> None:
    fleet, key = _fleet(2), _key(concurrency=concurrency)
    _tell(fleet)
    with contextlib.ExitStack() as held:
        assert _at_once(fleet[0], key, held) == alone
        _tell(fleet)
        # An even part is everybody's.
        assert _at_once(fleet[1], key, held) == evenly
    for _ in _seconds(clock, fleet, 4):
        clock.now += 1.0
    with contextlib.ExitStack() as held:
        assert _at_once(fleet[1], key, held) == concurrency


@pytest.mark.parametrize("replicas", [2, 4, 5, 8])
@pytest.mark.parametrize("concurrency", [8, 11, 99])
def test_all_together_keep_to_their_places_once_they_know_of_each_other(clock: _Clock, replicas: int, concurrency: int) -> None:
    fleet, key, together = _fleet(replicas), _key(concurrency=concurrency), 0
    for _ in _seconds(clock, fleet, 6):
        with contextlib.ExitStack() as held:
            together = sum(_at_once(one, key, held) for one in fleet)
            clock.now += 1.0
            _tell(fleet)
    assert concurrency - replicas < together <= concurrency


def test_what_was_counted_of_a_key_goes_with_it(clock: _Clock) -> None:
    one = Access("token", "", required=False, replicas=1)
    kept, dropped = _key(requests_s=1.0), _key(requests_s=1.0)
    for key in (kept, dropped):
        assert _admits(one, key)
    with one.admitted(Caller("k", "predict"), "m", Limits(requests_s=1.0)):
        pass
    one.keys = {kept.id: kept}
    one.divide([])
    assert not _admits(one, kept)  # its second is not over
    assert sorted(one.used()) == sorted([kept.id, "model m"])
    clock.now += 60.0
    assert one.used() == {}
