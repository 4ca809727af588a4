"""Cycles are found while they are young, and what stays is not looked at for ever."""

import gc
import weakref
from collections.abc import Generator

import pytest

from store import garbage


class _Thing:
    """May hold itself."""

    me: "_Thing | None" = None


@pytest.fixture(autouse=True)
def back() -> Generator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def _cycle() -> "weakref.ref[_Thing]":
    thing = _Thing()
    thing.me = thing
    return weakref.ref(thing)


def test_what_stays_is_looked_at_once() -> None:
    garbage.begin()
    kept = [[number] for number in range(50_000)]
    garbage.settle()
    assert gc.get_freeze_count() > len(kept)
    assert sum(map(len, (gc.get_objects(generation) for generation in range(3)))) < 10_000


def test_young_cycles_are_found_and_old_ones_at_the_next_beginning() -> None:
    garbage.begin()
    young = _cycle()
    garbage.settle()
    assert young() is None
    thing = _Thing()
    thing.me, old = thing, weakref.ref(thing)
    garbage.settle()
    del thing
    garbage.settle()
    assert old() is not None
    garbage.begin()
    assert old() is None


def test_what_is_in_no_cycle_is_freed_when_it_is_let_go() -> None:
    thing = _Thing()
    seen = weakref.ref(thing)
    garbage.settle()
    del thing
    assert seen() is None
