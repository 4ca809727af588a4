"""A trainer killed anywhere, any number of times, ends with the same bits as one that never was."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from store.artefact import digest_of
from store.names import log_stream
from store.protocols import Version
from store.records import Cut, Feedback, FeedbackBatch, Predictions, Served, pack_log
from store.redis_store import RedisStore

pytestmark = pytest.mark.chaos

MODEL, CUTS, ROWS = "coin", 150, 20
TRAINER = '''
import asyncio, os, signal, sys, threading
import torch
from pydantic import BaseModel
from store.redis_store import RedisStore
from store.spec import ModelSpec, Schedule
import trainer.joining
import trainer.loop
from trainer.loop import Trainer

trainer.joining.READ_ENTRIES = trainer.loop.READ_ENTRIES = 12  # many small steps, to be killed in any of them


class Features(BaseModel):
    side: str
    weight: float | None = None


def network(schema, outputs):
    """With dropout, so that the random state matters."""
    from trainer.network import TabularNetwork

    class Dropping(TabularNetwork):
        def forward(self, numbers, categories):
            return super().forward(torch.nn.functional.dropout(numbers, 0.3, self.training), categories)

    return Dropping(schema.numbers, schema.buckets, outputs)


url, prefix, kill_at, count, delay_s, last, compress = sys.argv[1:]
spec = ModelSpec(name="coin", features=Features, network=network, schedule=Schedule(seconds=None), compress=compress)
seen = 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def reached(stage):
    global seen
    seen += stage == kill_at
    if stage == kill_at and seen == int(count):
        die()


async def main():
    store = RedisStore(url, prefix)
    trainer = Trainer(spec, store, reached=reached)
    await trainer.start()
    if float(delay_s):
        threading.Timer(float(delay_s), die).start()
    while trainer.progress["join"] != last or await trainer.step():
        await trainer.step()
    os._exit(0)


asyncio.run(main())
'''
NAMED = ("join.before", "join.after", "publish.before", "publish.after")


def _write_log(url: str, prefix: str) -> str:
    """The same entries under the same positions, whoever asks."""
    draw = random.Random(7)
    redis = Redis.from_url(url)
    key = f"{prefix}:{log_stream(MODEL)}"
    position = 0
    for cut in range(CUTS):
        ids = [f"p{cut}-{row}" for row in range(ROWS)]
        rows: list[list[float | str | bool | bytes | None]] = [
            [draw.choice("ab"), draw.choice([None, draw.random()])] for _ in ids
        ]
        outputs, arms = [[0.5]] * ROWS, [0] * ROWS
        asked = Predictions(1.0, ids, ids, rows, outputs, [Served("main", 1, 1.0)], arms)
        said = FeedbackBatch(1.0, [Feedback(id_, float(row[0] == "a")) for id_, row in zip(ids, rows, strict=True)])
        for record in (asked, said, Cut("hand")):
            position += 1
            redis.xadd(key, {"p": pack_log(record)}, id=f"1700000000000-{position}")
    redis.close()
    return f"1700000000000-{position}"


def _train(
    url: str, prefix: str, last: str, kill_at: str = "-", count: int = 0, delay_s: float = 0.0, compress: str = ""
) -> int:
    arguments = [url, prefix, kill_at, str(count), str(delay_s), last, compress]
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", TRAINER, *arguments], cwd=root, check=False, timeout=300).returncode


async def _result(url: str, prefix: str) -> tuple[list[Version], str, str]:
    store = RedisStore(url, prefix)
    versions = await store.versions(MODEL, 10_000)
    weights = await store.weights(MODEL, versions[0].number)
    state = await store.blob(f"learner:{MODEL}:main")
    await store.close()
    return versions, digest_of(weights), digest_of(state)


def test_a_killed_trainer_ends_with_the_bits_of_one_that_was_not(redis_url: str, prefix: str) -> None:
    calm, killed = f"{prefix}-calm", f"{prefix}-killed"
    last = _write_log(redis_url, calm)
    assert _write_log(redis_url, killed) == last
    assert _train(redis_url, calm, last) == 0
    for stage in NAMED:
        assert _train(redis_url, killed, last, kill_at=stage, count=3) == -9, stage
    moments = random.Random(11)
    deaths = 0
    for _ in range(10):
        code = _train(redis_url, killed, last, delay_s=moments.uniform(0.005, 0.2))
        assert code in (0, -9)
        deaths += code == -9
    assert deaths >= 5, "the log was too short for its trainer to be killed"
    assert _train(redis_url, killed, last) == 0
    expected, actual = (asyncio.run(_result(redis_url, place)) for place in (calm, killed))
    assert actual[1:] == expected[1:]
    versions = actual[0]
    assert len(versions) == CUTS + 1
    assert len({(version.line, version.position) for version in versions}) == len(versions)
    assert [version.outcomes for version in versions] == [ROWS] * CUTS + [0]


def test_a_killed_trainer_leaves_each_version_with_one_compressed_child(redis_url: str, prefix: str) -> None:
    calm, killed, method = f"{prefix}-calm-sister", f"{prefix}-killed-sister", "dynamic_int8"
    last = _write_log(redis_url, calm)
    assert _write_log(redis_url, killed) == last
    assert _train(redis_url, calm, last, compress=method) == 0
    for stage in ("publish.before", "publish.after", "compress.after"):
        for count in (1, 2):
            assert _train(redis_url, killed, last, kill_at=stage, count=count, compress=method) == -9, stage
    moments = random.Random(12)
    for _ in range(5):
        assert _train(redis_url, killed, last, delay_s=moments.uniform(0.005, 0.4), compress=method) in (0, -9)
    assert _train(redis_url, killed, last, compress=method) == 0
    expected, actual = (asyncio.run(_result(redis_url, place)) for place in (calm, killed))
    assert actual[1:] == expected[1:]
    parents, children = ([version for version in actual[0] if version.line == line] for line in ("main", "main-compressed"))
    assert len(parents) == CUTS + 1
    assert [(one.parent, one.position) for one in children] == [(one.number, one.position) for one in parents]
    theirs = [version.weights for version in expected[0] if version.line == "main-compressed"]
    assert [one.weights for one in children] == theirs
