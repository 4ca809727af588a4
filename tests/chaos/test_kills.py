"""What was acknowledged is in the log, whoever was killed; the platform says what is away, and comes back by itself."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.testing import TestPlatform, Users, alive, platform_in, until
from store.archived import read
from store.names import log_stream, outcome_stream
from store.protocols import START
from store.records import FeedbackBatch, Outcomes, Predictions, unpack_log, unpack_outcomes
from store.redis_store import RedisStore

pytestmark = pytest.mark.chaos

MODEL = "vector"
INSTANCE = {"features": {"x": [0.5] * 32}}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPlatform]:
    with platform_in(tmp_path_factory.mktemp("kills")) as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEMILL_ARCHIVE_EVERY_S", "0.5")
        place.start("examples.vector:spec", replicas=2)
        yield place


def _logged(platform: TestPlatform) -> tuple[set[str], set[str]]:
    async def read() -> tuple[set[str], set[str]]:
        store = RedisStore(platform.running.redis_url)
        predicted, labelled, after = set[str](), set[str](), START
        while entries := await store.read(log_stream(MODEL), after, 1000):
            after = entries[-1].position
            for record in (unpack_log(entry.payload) for entry in entries):
                if isinstance(record, Predictions):
                    predicted.update(record.ids)
                elif isinstance(record, FeedbackBatch):
                    labelled.update(event.id for event in record.events)
        await store.close()
        return predicted, labelled

    return asyncio.run(read())


def _nothing_lost(platform: TestPlatform, users: Users) -> None:
    predicted, labelled = _logged(platform)
    assert users.predicted <= predicted
    assert users.labelled <= labelled


def test_a_killed_replica_loses_nothing_and_is_replaced(platform: TestPlatform) -> None:
    until(lambda: len(platform.pids("replicas")) == 2, "both replicas")
    with Users(platform.url, MODEL, INSTANCE) as users:
        users.more()
        victim = platform.pids("replicas")[0]
        os.kill(victim, signal.SIGKILL)
        users.more()
        until(lambda: len(set(platform.pids("replicas")) - {victim}) == 2, "a replacement")
        users.more()
    _nothing_lost(platform, users)


def test_a_killed_redis_loses_nothing_and_is_started_again(platform: TestPlatform) -> None:
    with Users(platform.url, MODEL, INSTANCE) as users:
        users.more()
        for _ in range(3):
            os.kill(platform.redis_pid(), signal.SIGKILL)
            users.more()
    until(platform.ready, "ready again")
    _nothing_lost(platform, users)


def test_while_redis_hangs_the_platform_says_so_and_answers_503(platform: TestPlatform) -> None:
    with Users(platform.url, MODEL, INSTANCE) as users:
        users.more()
        redis = psutil.Process(platform.redis_pid())
        redis.suspend()
        with platform.client() as client:
            until(lambda: "prediction log" in client.ready()["away"], "/readyz says that the log is away")
            until(lambda: 503 in users.refusals, "predictions are refused")
            assert not client.ready()["ready"]
            assert "prediction log" in client.status()["away"]
        redis.kill()
        until(platform.ready, "ready again")
        users.more()
    assert users.refusals <= {0, 500, 503}
    _nothing_lost(platform, users)


def test_predictions_take_the_short_way_in(platform: TestPlatform) -> None:
    """Serve marks every request that it handles itself with an id."""
    url = platform.running.url
    answered = httpx.post(f"{url}/models/{MODEL}/predict", json={"instances": [INSTANCE]})
    assert (answered.status_code, answered.headers.get("x-request-id")) == (200, None)
    assert "x-request-id" in httpx.get(f"{url}/readyz").headers


def test_a_killed_trainer_goes_on_learning(platform: TestPlatform) -> None:
    with platform.client() as client:
        client.retrain(MODEL)
        [victim] = platform.pids("trainers")
        os.kill(victim, signal.SIGKILL)
        [made] = client.predict(MODEL, [INSTANCE])
        client.feedback([{"id": made["id"], "label": 1}])
        assert client.retrain(MODEL, 60.0)["verdict"] == "published"
        until(lambda: platform.pids("trainers") not in ([], [victim]), "another trainer")


def test_what_was_labelled_is_archived_once_through_all_kills(platform: TestPlatform) -> None:
    with Users(platform.url, MODEL, INSTANCE) as users:
        users.more()
    until(lambda: users.labelled <= set(asyncio.run(_joined(platform))), "all labels are joined")
    outcomes = asyncio.run(_joined(platform))
    until(lambda: len(_archived(platform)) >= len(outcomes), "all of it is archived")
    assert _archived(platform) == outcomes
    days = json.loads(platform.command("archive", MODEL, "--json"))["days"]
    assert sum(day["outcomes"] for day in days) == len(outcomes)


def _archived(platform: TestPlatform) -> list[str]:
    try:
        return read(platform.home.path / "archive", MODEL)["id"].to_pylist()
    except FileNotFoundError:
        return []


async def _joined(platform: TestPlatform) -> list[str]:
    """The ids of all outcomes, in order."""
    store = RedisStore(platform.running.redis_url)
    found, after = list[str](), START
    while entries := await store.read(outcome_stream(MODEL), after, 1000):
        after = entries[-1].position
        for record in (unpack_outcomes(entry.payload) for entry in entries):
            found += [outcome.id for outcome in record.outcomes] if isinstance(record, Outcomes) else []
    await store.close()
    return found


def test_a_killed_platform_leaves_nothing_and_the_next_one_knows_what_it_knew(tmp_path: Path) -> None:
    with platform_in(tmp_path) as platform:
        platform.start("examples.vector:spec")
        with platform.client() as client:
            [made] = client.predict(MODEL, [INSTANCE])
            client.feedback([{"id": made["id"], "label": 1}])
            version = client.retrain(MODEL)["version"]
        processes = platform.processes()
        assert len(processes) > 5
        os.kill(platform.running.pid, signal.SIGKILL)
        until(lambda: not alive(processes), "everything has ended")
        assert "no platform is running" in platform.command("status", check=False)
        platform.start("examples.vector:spec")
        with platform.client() as client:
            assert client.predict(MODEL, [INSTANCE])[0]["version"] == version
        processes = platform.processes()
        platform.command("down")
        until(lambda: not alive(processes), "everything has ended")
