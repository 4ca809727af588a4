"""What a replica sends to a variant's own deployment: batches, deadlines, one request's failure, hosts that die."""

import asyncio
import math
from time import monotonic
from typing import Any

import numpy as np
import pytest

from serving.dedicated import link as module
from serving.dedicated.link import HostFailed, Link, Scored, app_name
from serving.errors import NotReady, TimedOut
from store.encoding import Encoded
from store.placement import Dedicated, InProcess
from store.policy import Variant

pytestmark = pytest.mark.anyio


class Hosts:
    """Hosts that answer with the sum of a row times the version, and keep what they were asked; `open` holds them up."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.dead = 0
        self.most = self.now = 0

    async def answer(self, number: int, numbers: np.ndarray, categories: np.ndarray, carried: dict[str, str]) -> Scored:
        self.calls.append((number, len(numbers)))
        assert len(categories) == len(numbers)
        self.now += 1
        self.most = max(self.most, self.now)
        await self.open.wait()
        self.now -= 1
        if self.dead:
            self.dead -= 1
            raise ConnectionError("the actor died")
        if np.isnan(numbers).any():
            return Scored(None, 0.0, "a number is missing")
        return Scored(numbers.sum(axis=1, keepdims=True) * number, 0.001)

    async def opens(self, number: int) -> str:
        if self.dead:
            raise ConnectionError("the actor died")
        return "" if number < 10 else f"there is no version {number}"


def _rows(*values: float) -> Encoded:
    return Encoded(np.array([[value, 1.0] for value in values], dtype=np.float32), np.zeros((len(values), 0), dtype=np.int64))


def _link(hosts: Hosts, **placement: Any) -> Link:
    return Link("app", Dedicated(**placement), hosts)


async def _turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_waits_goes_together_and_everyone_gets_their_own() -> None:
    hosts = Hosts()
    hosts.open.clear()
    link = _link(hosts, max_batch_size=8)
    asked = [asyncio.create_task(link.run(1, _rows(float(index)))) for index in range(10)]
    await _turns()
    assert hosts.calls == [(1, 1)]  # it is on its way; the others gather
    assert link.waiting == 9
    hosts.open.set()
    scores = [float((await one)[0][0, 0]) for one in asked]
    assert scores == [index + 1.0 for index in range(10)]
    assert hosts.calls == [(1, 1), (1, 8), (1, 1)]


async def test_a_batch_of_one_is_never_shared_and_never_waits_for_others() -> None:
    hosts = Hosts()
    hosts.open.clear()
    link = _link(hosts, max_batch_size=1)
    asked = [asyncio.create_task(link.run(1, _rows(1.0))) for _ in range(10)]
    await _turns()
    assert hosts.calls == [(1, 1)] * 10
    hosts.open.set()
    await asyncio.gather(*asked)
    assert hosts.most == 10


async def test_a_request_larger_than_a_batch_is_cut_and_put_together_again() -> None:
    hosts = Hosts()
    scores, _ = await _link(hosts, max_batch_size=4).run(2, _rows(*map(float, range(10))))
    assert scores[:, 0].tolist() == [2.0 * (index + 1) for index in range(10)]
    assert sorted(rows for _, rows in hosts.calls) == [2, 4, 4]


async def test_versions_are_not_mixed_in_a_batch() -> None:
    hosts = Hosts()
    hosts.open.clear()
    link = _link(hosts, max_batch_size=8)
    asked = [asyncio.create_task(link.run(number, _rows(1.0))) for number in (1, 1, 1, 2, 1)]
    await _turns()
    hosts.open.set()
    assert [float((await one)[0][0, 0]) for one in asked] == [2.0, 2.0, 2.0, 4.0, 2.0]
    assert hosts.calls == [(1, 1), (1, 2), (2, 1), (1, 1)]


async def test_a_batch_that_is_not_full_waits_as_long_as_it_was_told_and_a_full_one_does_not() -> None:
    hosts = Hosts()
    link = _link(hosts, max_batch_size=3, batch_wait_ms=200.0)
    asked = [asyncio.create_task(link.run(1, _rows(1.0))) for _ in range(2)]
    await _turns()
    assert hosts.calls == []
    await asyncio.gather(*asked)
    assert hosts.calls == [(1, 2)]
    full = [asyncio.create_task(link.run(1, _rows(1.0))) for _ in range(3)]
    await _turns()
    assert hosts.calls == [(1, 2), (1, 3)]
    await asyncio.gather(*full)


async def test_rows_that_a_version_cannot_answer_fail_their_own_request_alone() -> None:
    hosts = Hosts()
    hosts.open.clear()
    link = _link(hosts, max_batch_size=8)
    asked = [asyncio.create_task(link.run(1, _rows(value))) for value in (0.0, 1.0, 2.0, math.nan, 4.0)]
    await _turns()
    hosts.open.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    failed = answers.pop(3)
    assert isinstance(failed, HostFailed)
    assert str(failed) == "a number is missing"
    assert [float(one[0][0, 0]) for one in answers if not isinstance(one, BaseException)] == [1.0, 2.0, 3.0, 5.0]


async def test_a_host_that_dies_is_asked_again() -> None:
    hosts = Hosts()
    hosts.dead = 2
    scores, _ = await _link(hosts).run(1, _rows(1.0))
    assert scores.tolist() == [[2.0]]
    assert len(hosts.calls) == 3


async def test_hosts_that_stay_away_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)
    hosts = Hosts()
    hosts.dead = 10**6
    link = _link(hosts)
    with pytest.raises(NotReady, match="'app' does not answer"):
        await link.run(1, _rows(1.0))
    with pytest.raises(NotReady):
        await link.opens(1)


async def test_a_version_is_opened_or_it_is_said_why_not() -> None:
    link = _link(Hosts())
    assert await link.opens(1) == ""
    assert await link.opens(11) == "there is no version 11"


async def test_what_nobody_waits_for_is_not_sent() -> None:
    hosts = Hosts()
    hosts.open.clear()
    link = _link(hosts, max_batch_size=8)
    first = [asyncio.create_task(link.run(1, _rows(1.0)))]
    await _turns()
    late = asyncio.create_task(link.run(1, _rows(1.0), until=monotonic() - 1.0))
    gone = asyncio.create_task(link.run(1, _rows(1.0)))
    await _turns()
    gone.cancel()
    await _turns()
    hosts.open.set()
    with pytest.raises(TimedOut, match="deadline"):
        await late
    await asyncio.gather(*first)
    await _turns()
    assert hosts.calls == [(1, 1)]


def test_every_placement_is_an_application_of_its_own() -> None:
    variants = [
        Variant(name="main", placement=Dedicated()),
        Variant(name="main", placement=Dedicated(gpus=1.0)),
        Variant(name="other", placement=Dedicated()),
        Variant(name="ot her", placement=Dedicated()),
        Variant(name="ot/her", placement=Dedicated()),
        Variant(name="main", placement=InProcess()),
    ]
    names = [app_name("p", "model", variant) for variant in variants]
    assert len(set(names)) == len(names)
    assert all(name.startswith("p.variant.model.") and "/" not in name and " " not in name for name in names)
    pinned = Variant(name="main", version=3, placement=Dedicated())
    assert app_name("p", "model", pinned) == names[0]  # another version is no other application
