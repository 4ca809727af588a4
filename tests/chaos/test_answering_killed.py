"""What drift asks for is learned by a child process; killed, it is started again, and the request is answered once."""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.answering import RETRY_S, Answering, Order, start
from store.drift import Drift
from store.names import learner_consumer
from store.protocols import START, Advance
from store.redis_store import RedisStore
from store.requests import Request, answer_to
from tests.unit.trainer.retraining.simulated import DAY_1, SOURCE, archive, spec

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]

ROWS, SHIFT = 500, 200


@dataclass
class Children:
    """All that were started, of which the first is killed at once."""

    url: str
    prefix: str
    folder: Path
    started: list[Order] = field(default_factory=list[Order])

    def order(self, model: str, request: Request, least: int) -> Order:
        return Order(
            redis_url=self.url,
            prefix=self.prefix,
            archive=str(self.folder),
            seed=None,
            model=model,
            request=request,
            least=least,
        )

    def start(self, order: Order) -> object:
        self.started.append(order)
        child = start(order)
        if len(self.started) == 1:
            child.kill()
        child.wait()
        return child


async def test_a_request_is_answered_once_whoever_is_killed(
    redis_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # a child imports what its parent can, the spec of this test, too
    archive(tmp_path, ROWS)
    store = RedisStore(redis_url, prefix)
    watched = Drift(short=64, long=256, respond=("retrain",))
    await store.register(spec.record.model_copy(update={"source": SOURCE, "drift": watched}))
    since = DAY_1 + timedelta(seconds=SHIFT)
    wanted = {"outcome": SHIFT, "at": since.timestamp(), "log_position": "7-7"}
    state = {"drift": {"outcomes": ROWS, "retrain": wanted}}
    await store.advance(Advance(learner_consumer("m"), START, "9-0", json.dumps(state).encode()), [])
    children = Children(redis_url, prefix, tmp_path)
    answering = Answering(store, children.order, children.start)  # pyright: ignore[reportArgumentType]
    for now in (0.0, 1.0, RETRY_S - 1.0):
        await answering.refresh(now)
    assert len(children.started) == 1
    assert await answer_to(store, "m", "7-7") is None
    for now in (RETRY_S + 2.0, RETRY_S + 3.0, 3 * RETRY_S, 9 * RETRY_S):
        await answering.refresh(now)
    assert len(children.started) == 2
    heir = Answering(store, children.order, children.start)  # pyright: ignore[reportArgumentType]
    await heir.refresh(0.0)
    await asyncio.to_thread(children.start, children.started[0])  # as if two were at work at the same time
    [version] = await store.versions("m")
    assert (version.line, version.outcomes, version.lineage["asked"]) == ("retrained", ROWS - SHIFT, "7-7")
    assert (await store.snapshot("m")).channels == {"retrained@latest": 1}
    await store.close()
