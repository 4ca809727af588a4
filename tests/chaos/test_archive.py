"""An archive whose writer is killed anywhere, again and again, ends with every outcome once."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from store.archived import read
from store.names import archive_consumer, outcome_stream
from store.protocols import position_key
from store.records import Outcome, Outcomes, Served, pack_outcomes
from store.redis_store import RedisStore

pytestmark = pytest.mark.chaos

MODEL, BATCHES, ROWS, KILLS = "coin", 300, 7, 6
DAY_S = 86_400.0

WRITER = """
import asyncio, sys
from pydantic import BaseModel
import trainer.archiving
from store.redis_store import RedisStore
from store.spec import ModelSpec

trainer.archiving.READ_ENTRIES = 9  # many small steps, to be killed in any of them

class Features(BaseModel):
    side: str

url, prefix, folder = sys.argv[1:]
record = ModelSpec(name="coin", features=Features).record

async def main():
    settings = trainer.archiving.ArchiveSettings(folder=folder, rows=50, every_s=0.0)
    archiving = trainer.archiving.Archiving(record, RedisStore(url, prefix), settings)
    print("begins", flush=True)
    await archiving.run()

asyncio.run(main())
"""


def _spawn(url: str, prefix: str, folder: Path) -> "subprocess.Popen[str]":
    writer = subprocess.Popen([sys.executable, "-c", WRITER, url, prefix, str(folder)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    return writer


def _files(folder: Path) -> int:
    """Finished and unfinished ones."""
    return sum(1 for _ in folder.rglob("*.parquet*"))


async def _fill(store: RedisStore) -> tuple[list[str], str]:
    """Append outcomes of three days; return their ids in order, and the last position."""
    ids, position = list[str](), ""
    for batch in range(BATCHES):
        outcomes = [
            Outcome(
                f"{batch}.{row}", "", ["heads"], [0.5], Served("main", 1, 1.0), 1.0, "label", True, (row % 3) * DAY_S, 0.0, 0.0
            )
            for row in range(ROWS)
        ]
        ids += [outcome.id for outcome in outcomes]
        [position] = await store.append([(outcome_stream(MODEL), pack_outcomes(Outcomes(outcomes)))])
    return ids, position


def test_every_outcome_is_there_once(redis_url: str, prefix: str, tmp_path: Path) -> None:
    draw = random.Random(3)

    async def at() -> str:
        store = RedisStore(redis_url, prefix)
        try:
            return (await store.consumer(archive_consumer(MODEL)))[0]
        finally:
            await store.close()

    async def fill() -> tuple[list[str], str]:
        store = RedisStore(redis_url, prefix)
        try:
            return await _fill(store)
        finally:
            await store.close()

    ids, last = asyncio.run(fill())
    kills, seen = 0, set[str]()
    while True:
        writer = _spawn(redis_url, prefix, tmp_path)
        try:
            if kills < KILLS:
                there = _files(tmp_path)
                more = draw.randint(1, 9)
                while _files(tmp_path) < there + more:
                    assert writer.poll() is None
                    time.sleep(0.001)
                os.kill(writer.pid, signal.SIGKILL)
                kills += 1
            else:
                while position_key(asyncio.run(at())) < position_key(last):
                    assert writer.poll() is None
                    time.sleep(0.1)
        finally:
            writer.kill()
            writer.communicate()
        seen.add(now := asyncio.run(at()))
        if now == last:
            break
    assert len(seen) > 2, "the kills were to come while it wrote"
    assert read(tmp_path, MODEL)["id"].to_pylist() == ids
