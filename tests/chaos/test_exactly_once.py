"""A trainer killed anywhere, any number of times, ends with the same bits as one that never was."""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from store.artefact import digest_of
from store.names import log_stream, outcome_stream
from store.protocols import START, Version
from store.records import Cut, Feedback, FeedbackBatch, Outcome, Outcomes, Predictions, Served, pack_log, unpack_outcomes
from store.redis_store import RedisStore

pytestmark = pytest.mark.chaos

MODEL, ROWS = "coin", 20
CUTS, SISTER_CUTS, CORRECTED_CUTS = 150, 60, 36
"""Micro-batches; with a compressed child each, fewer of them take as long."""

TRAINER = '''
import asyncio, json, os, signal, sys, threading
import torch
from pydantic import BaseModel
from store.redis_store import RedisStore
from store.schema import schema_of
from store.spec import LabelPolicy, Learning, ModelSpec, Schedule
from trainer.export import Scorer, export
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


def die():
    os.kill(os.getpid(), signal.SIGKILL)


async def train(url, prefix, kill_at, count, delay_s, last, compress, corrected):
    seen = 0

    def reached(stage):
        nonlocal seen
        seen += stage == kill_at
        if stage == kill_at and seen == count:
            die()

    spec = ModelSpec(
        name="coin", features=Features, network=network, schedule=Schedule(seconds=None), compress=compress,
        labels=LabelPolicy(kind="corrected", default=0, window_s=1.0, sources={"crowd": 0.8}) if corrected else LabelPolicy(),
        learning=Learning.model_validate({"replay": {"capacity": 64, "rows": 8}} if corrected else {}),
    )
    trainer = Trainer(spec, RedisStore(url, prefix), reached=reached)
    await trainer.start()
    if delay_s:
        threading.Timer(delay_s, die).start()
    while trainer.progress["join"] != last or await trainer.step():
        await trainer.step()
    os._exit(0)


# Torch takes seconds to be imported, and what exports networks as long again: each life is a fork of a process that has
# done no more than that.
schema = schema_of(Features)
export(Scorer(network(schema, 1), "binary").eval(), schema)
for line in sys.stdin:
    child = os.fork()
    if not child:
        asyncio.run(train(*json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'''
NAMED = ("join.before", "join.after", "gates.after", "publish.before", "publish.after")


def _write_log(url: str, prefix: str, cuts: int = CUTS, corrected: bool = False) -> str:
    """The same entries under the same positions, whoever asks; where labels are `corrected`, some never come, and others are
    said again, differently, also when their window has ended."""
    draw = random.Random(7)
    redis = Redis.from_url(url)
    key = f"{prefix}:{log_stream(MODEL)}"
    position, last = 0, ""
    for cut in range(cuts):
        ids = [f"p{cut}-{row}" for row in range(ROWS)]
        rows: list[list[float | str | bool | bytes | None]] = [
            [draw.choice("ab"), draw.choice([None, draw.random()])] for _ in ids
        ]
        outputs, arms = [[0.5]] * ROWS, [0] * ROWS
        asked = Predictions(1.0, ids, ids, rows, outputs, [Served("main", 1, 1.0)], arms)
        said = FeedbackBatch(1.0, [Feedback(id_, float(row[0] == "a")) for id_, row in zip(ids, rows, strict=True)])
        said = FeedbackBatch(1.0, said.events[: ROWS - 3]) if corrected else said
        for record in (asked, said, *(_corrections(cut) if corrected else ()), Cut("hand")):
            position += 1
            # A second of the log's clock for each ten micro-batches.
            last = f"{1_700_000_000_000 + (100 * cut if corrected else 0)}-{position}"
            redis.xadd(key, {"p": pack_log(record)}, id=last)
    redis.close()
    return last


def _corrections(cut: int) -> Iterator[FeedbackBatch]:
    """Other labels for some rows of this micro-batch, the one before, and one whose window is over; by two who disagree."""
    draw = random.Random(cut)
    for back in (0, 1, 13):
        ids = [f"p{cut - back}-{row}" for row in draw.sample(range(ROWS), 6)] if cut >= back else []
        yield FeedbackBatch(2.0, [Feedback(id_, draw.choice([0.0, 1.0]), None, draw.choice(["", "crowd"])) for id_ in ids])


class Lives:
    """Trainers that live one after the other, each a process of its own."""

    def __init__(self, nursery: "subprocess.Popen[str]", url: str) -> None:
        self._nursery, self._url = nursery, url

    def __call__(
        self,
        prefix: str,
        last: str,
        kill_at: str = "-",
        count: int = 0,
        delay_s: float = 0.0,
        compress: str = "",
        corrected: bool = False,
    ) -> int:
        """Let a trainer learn the log to its end, or until it is killed; return its exit code."""
        assert self._nursery.stdin
        assert self._nursery.stdout
        given = [self._url, prefix, kill_at, count, delay_s, last, compress, corrected]
        print(json.dumps(given), file=self._nursery.stdin, flush=True)
        return int(self._nursery.stdout.readline())


@pytest.fixture(scope="module")
def train(redis_url: str) -> Iterator[Lives]:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", TRAINER]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        yield Lives(nursery, redis_url)
        nursery.kill()


async def _result(url: str, prefix: str) -> tuple[list[Version], str, str]:
    store = RedisStore(url, prefix)
    versions = await store.versions(MODEL, 10_000)
    weights = await store.weights(MODEL, versions[0].number)
    state = await store.blob(f"learner:{MODEL}:main")
    await store.close()
    return versions, digest_of(weights), digest_of(state)


async def _outcomes(url: str, prefix: str) -> list[Outcome]:
    store = RedisStore(url, prefix)
    entries = await store.read(outcome_stream(MODEL), START, 100_000)
    await store.close()
    records = [unpack_outcomes(entry.payload) for entry in entries]
    return [outcome for record in records if isinstance(record, Outcomes) for outcome in record.outcomes]


def test_a_killed_trainer_ends_with_the_bits_of_one_that_was_not(train: Lives, redis_url: str, prefix: str) -> None:
    calm, killed = f"{prefix}-calm", f"{prefix}-killed"
    last = _write_log(redis_url, calm)
    assert _write_log(redis_url, killed) == last
    assert train(calm, last) == 0
    for stage in NAMED:
        assert train(killed, last, kill_at=stage, count=3) == -9, stage
    moments = random.Random(11)
    deaths = 0
    for _ in range(10):
        code = train(killed, last, delay_s=moments.uniform(0.005, 0.2))
        assert code in (0, -9)
        deaths += code == -9
    assert deaths >= 5, "the log was too short for its trainer to be killed"
    assert train(killed, last) == 0
    expected, actual = (asyncio.run(_result(redis_url, place)) for place in (calm, killed))
    assert actual[1:] == expected[1:]
    versions = actual[0]
    assert len(versions) == CUTS + 1
    assert len({(version.line, version.position) for version in versions}) == len(versions)
    assert [version.outcomes for version in versions] == [ROWS] * CUTS + [0]


def test_a_killed_trainer_leaves_each_version_with_one_compressed_child(train: Lives, redis_url: str, prefix: str) -> None:
    calm, killed, method = f"{prefix}-calm-sister", f"{prefix}-killed-sister", "dynamic_int8"
    last = _write_log(redis_url, calm, SISTER_CUTS)
    assert _write_log(redis_url, killed, SISTER_CUTS) == last
    assert train(calm, last, compress=method) == 0
    for stage in ("publish.before", "publish.after", "compress.after"):
        for count in (1, 2):
            assert train(killed, last, kill_at=stage, count=count, compress=method) == -9, stage
    moments = random.Random(12)
    for _ in range(5):
        assert train(killed, last, delay_s=moments.uniform(0.005, 0.4), compress=method) in (0, -9)
    assert train(killed, last, compress=method) == 0
    expected, actual = (asyncio.run(_result(redis_url, place)) for place in (calm, killed))
    assert actual[1:] == expected[1:]
    parents, children = ([version for version in actual[0] if version.line == line] for line in ("main", "main-compressed"))
    assert len(parents) == SISTER_CUTS + 1
    assert [(one.parent, one.position) for one in children] == [(one.number, one.position) for one in parents]
    theirs = [version.weights for version in expected[0] if version.line == "main-compressed"]
    assert [one.weights for one in children] == theirs


def test_a_trainer_that_is_killed_over_corrections_applies_each_once(train: Lives, redis_url: str, prefix: str) -> None:
    calm, killed = f"{prefix}-calm-corrected", f"{prefix}-killed-corrected"
    last = _write_log(redis_url, calm, CORRECTED_CUTS, corrected=True)
    assert _write_log(redis_url, killed, CORRECTED_CUTS, corrected=True) == last
    assert train(calm, last, corrected=True) == 0
    for stage in NAMED:
        assert train(killed, last, kill_at=stage, count=2, corrected=True) == -9, stage
    moments = random.Random(13)
    for _ in range(2):
        assert train(killed, last, delay_s=moments.uniform(0.005, 0.2), corrected=True) in (0, -9)
    assert train(killed, last, corrected=True) == 0
    expected, actual = (asyncio.run(_result(redis_url, place)) for place in (calm, killed))
    assert actual[1:] == expected[1:]
    assert [one.outcomes for one in actual[0]] == [one.outcomes for one in expected[0]]
    assert len(actual[0]) == CORRECTED_CUTS + 1
    said = [asyncio.run(_outcomes(redis_url, place)) for place in (calm, killed)]
    assert said[0] == said[1], "the same outcomes, each once, in the same order"
    amended = [one for one in said[0] if one.learned]
    assert {one.kind for one in amended} == {"label", "correction", "default"}
    assert any(not one.final for one in amended), "some came after their window"
