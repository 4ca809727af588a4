"""Whoever is killed while they compress a version leaves whole versions, and the next one makes those that are missing."""

import signal
import subprocess
import sys

import pytest

from store.publishing import publish
from store.redis_store import RedisStore
from tests.integration.conftest import SPEC
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio

METHODS = ("dynamic_int8", "fp16")
_COMPRESS = f"""
import asyncio, os, signal, sys
from deploy.compressing import Workshop
from store.redis_store import RedisStore

url, prefix, ends, which = sys.argv[1:]
commit, commits = RedisStore.commit, 0

def reached(when):
    if (when, commits) == (ends, int(which)):
        os.kill(os.getpid(), signal.SIGKILL)

async def counted(self, *given):
    global commits
    commits += 1
    reached("before")
    made = await commit(self, *given)
    reached("after")
    return made

async def run():
    store = RedisStore(url, prefix)
    workshop = Workshop(store, "m")
    found = await workshop.measure(None, {METHODS})
    await workshop.publish(found, {METHODS})
    await store.close()

RedisStore.commit = counted
asyncio.run(run())
"""


def _compress(url: str, prefix: str, ends: str = "never", which: int = 0) -> int:
    command = [sys.executable, "-W", "ignore", "-c", _COMPRESS, url, prefix, ends, str(which)]
    return subprocess.run(command, check=False, timeout=120).returncode


@pytest.mark.parametrize(("ends", "which", "made"), [("before", 1, 0), ("after", 1, 1), ("before", 2, 1), ("after", 2, 2)])
async def test_what_was_published_is_whole_and_the_rest_is_made_by_the_next(
    redis_url: str, prefix: str, ends: str, which: int, made: int
) -> None:
    store = RedisStore(redis_url, prefix)
    await Trainer(SPEC, store).start()
    assert _compress(redis_url, prefix, ends, which) == -signal.SIGKILL
    lines = ["main", "main-dynamic-int8", "main-fp16"]
    there = (await store.versions("m"))[::-1]
    assert [one.line for one in there] == lines[: 1 + made]
    assert _compress(redis_url, prefix) == 0
    versions = (await store.versions("m"))[::-1]
    assert [one.line for one in versions] == lines
    assert versions[: 1 + made] == there
    for one in versions:  # opens, and answers its golden inputs
        graph, weights = await store.graph("m", one.graph), await store.weights("m", one.number)
        await publish(store, "m", graph, weights, "again")
    await store.close()
