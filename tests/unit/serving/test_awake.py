"""Processors are kept from halting under load, and not a moment longer than it is worth."""

import asyncio
from itertools import count
from pathlib import Path

import pytest

from serving.awake import Wakefulness, stay_awake

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A stand-in for the kernel's."""
    path = tmp_path / "latency"
    path.touch()
    return path


def test_it_is_held_under_load_and_let_go_after_a_calm_second(file: Path) -> None:
    wakefulness = Wakefulness(file)
    wakefulness.look(answered=10, seconds=0.5)
    assert not wakefulness.held
    wakefulness.look(answered=50, seconds=0.5)
    assert wakefulness.held
    assert file.read_bytes() == b"\0\0\0\0"
    for answered in (0, 50, 0):  # a pause is no calm
        wakefulness.look(answered, seconds=0.5)
        assert wakefulness.held
    wakefulness.look(answered=3, seconds=0.5)
    assert not wakefulness.held
    wakefulness.look(answered=500, seconds=0.5)
    assert wakefulness.held
    wakefulness.release()
    assert not wakefulness.held


def test_where_it_cannot_be_had_nothing_is_made_and_nothing_fails(tmp_path: Path) -> None:
    wakefulness = Wakefulness(tmp_path / "missing")
    wakefulness.look(answered=1000, seconds=0.5)
    assert not wakefulness.held
    assert not list(tmp_path.iterdir())


async def test_a_replica_that_stops_lets_go(file: Path) -> None:
    wakefulness, answered = Wakefulness(file), count(step=1000)
    task = asyncio.create_task(stay_awake(lambda: next(answered), wakefulness))
    async with asyncio.timeout(30):
        while not wakefulness.held:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not wakefulness.held
