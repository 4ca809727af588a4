"""A search whose driver is killed goes on from the rungs that were learned, and ends as one that never was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.home import Home, Running
from store.names import log_stream
from store.records import Cut, Feedback, FeedbackBatch, Predictions, Served, pack_log
from store.redis_store import RedisStore
from tests.unit.tuning.simulated import SOURCE, spec
from trainer.loop import Trainer

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]

_TUNE = """
import json, os, signal, sys
from pathlib import Path
from deploy import tuning
from deploy.settings import Settings
from tuning.plan import SearchPlan

import psutil

url, prefix, home, ends, whom = sys.argv[1:]
settings = Settings(prefix=prefix, home=Path(home))
told = []

def reached(one):
    told.append(one)
    if len(told) == int(ends):
        here = psutil.Process()
        if whom == "driver":
            victims = [here]
        elif whom == "head":
            victims = [one for one in here.children() if one.name() in ("gcs_server", "raylet")]
        else:
            titles = [(one, "".join(one.cmdline()[:1])) for one in here.children(recursive=True)]
            victims = [one for one, title in titles if title.startswith("ray::") and "Agent" not in title]
        assert victims
        for victim in victims:
            victim.kill()

try:
    folder = tuning.unfinished(settings, "m")
except Exception:
    folder = tuning.begun(settings, url, SearchPlan(model="m", source="", trials=4, seed=1))
found = tuning.tune(settings, url, folder, reached)
print(found.result.model_dump_json())
"""


def _tune(url: str, prefix: str, home: Path, ends: int = 0, whom: str = "driver") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-c", _TUNE, url, prefix, str(home), str(ends), whom]
    return subprocess.run(command, check=False, timeout=240, capture_output=True, text=True)


def _resume(url: str, prefix: str, path: Path) -> "subprocess.CompletedProcess[str]":
    """As an operator takes it up, beside a platform whose home it is."""
    home = Home(path)
    home.take()
    home.tell(Running(pid=os.getpid(), url="http://127.0.0.1:1", redis_url=url, specs=(SOURCE,)))
    try:
        command = [sys.executable, "-m", "deploy.cli", "tune", "m", "--resume", "--json", f"--home={path}"]
        given = os.environ | {"TIDEMILL_PREFIX": prefix}
        return subprocess.run(command, check=False, timeout=240, capture_output=True, text=True, env=given)
    finally:
        home.leave()


async def _learned(store: RedisStore) -> None:
    trainer = Trainer(spec, store)
    await trainer.start()
    for number in range(12):
        ids = [f"{number}-{row}" for row in range(20)]
        rows = [[row / 10 - 1, "red"] for row in range(20)]
        asked = Predictions(1.0, ids, ids, rows, [[0.5]] * 20, [Served("main", 1, 1.0)], [0] * 20)  # pyright: ignore[reportArgumentType]
        told = FeedbackBatch(1.0, [Feedback(id_, float(row > 9)) for row, id_ in enumerate(ids)])
        await store.append([(log_stream("m"), pack_log(record)) for record in (asked, told, Cut("hand"), Cut("hand"))])
        while await trainer.step(0.01):
            pass


@pytest.mark.parametrize("whom", ["driver", "head", "trial"])
async def test_a_search_in_which_somebody_is_killed_ends_as_one_that_was_not(
    redis_url: str, prefix: str, tmp_path: Path, whom: str
) -> None:
    store = RedisStore(redis_url, prefix)
    await store.register(spec.record.model_copy(update={"source": SOURCE}))
    await _learned(store)
    killed = _tune(redis_url, prefix, tmp_path / "killed", 3, whom)
    if whom == "trial":  # Tune begins it again, and it goes on from its rungs
        assert killed.returncode == 0, killed.stderr
        resumed = killed
    else:
        assert killed.returncode != 0
        assert whom == "driver" or "'tidemill tune m --resume'" in killed.stderr
        assert (await store.versions("m"))[0].line == "main"
        assert [*(tmp_path / "killed/tuning/m/0001/trials").glob("*.?")]
        resumed = (
            _resume(redis_url, prefix, tmp_path / "killed")
            if whom == "driver"
            else _tune(redis_url, prefix, tmp_path / "killed")
        )
        assert resumed.returncode == 0, resumed.stderr
    whole = _tune(redis_url, prefix, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    results = [json.loads(done.stdout[done.stdout.index("{") :]) for done in (resumed, whole)]
    for name in ("way", "heldout", "production", "version"):
        assert results[0][name] == results[1][name], name
    boards = [[one["tried"] for one in result["leaderboard"]] for result in results]
    assert boards[0] == boards[1]
    newest = (await store.versions("m"))[0]
    assert (newest.line, newest.number) == ("tuned", results[0]["version"])
    await store.close()
