"""Whoever is killed while they retrain from the archive leaves nothing half done, and the next one ends with the same bits."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from store.redis_store import RedisStore
from tests.unit.trainer.retraining.simulated import SOURCE, archive, spec

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]

_RETRAIN = """
import json, os, signal, sys
from pathlib import Path
from deploy.retraining import retrain
from deploy.settings import Settings
from store.redis_store import RedisStore

url, prefix, folder, ends = sys.argv[1:]
commit = RedisStore.commit

def reached(when):
    if when == ends:
        os.kill(os.getpid(), signal.SIGKILL)

async def watched(self, *given):
    reached("before")
    made = await commit(self, *given)
    reached("after")
    return made

RedisStore.commit = watched
found = retrain(Settings(prefix=prefix, archive=Path(folder)), url, "m", lambda done, of: reached(str(done)), passes=2)
print(json.dumps(found.as_json()))
"""


def _retrain(url: str, prefix: str, folder: Path, ends: str = "never") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-c", _RETRAIN, url, prefix, str(folder), ends]
    return subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)


async def test_nothing_half_published_and_the_same_in_the_end(redis_url: str, prefix: str, tmp_path: Path) -> None:
    archive(tmp_path, 500)
    store = RedisStore(redis_url, prefix)
    await store.register(spec.record.model_copy(update={"source": SOURCE}))
    for ends in ("128", "628", "before"):
        assert _retrain(redis_url, prefix, tmp_path, ends).returncode == -signal.SIGKILL
        assert await store.versions("m") == []
        assert (await store.snapshot("m")).channels == {}
    assert _retrain(redis_url, prefix, tmp_path, "after").returncode == -signal.SIGKILL
    [version] = await store.versions("m")
    done = _retrain(redis_url, prefix, tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["version"]["number"], said["version"]["weights"], said["before"]) == (1, version.weights, True)
    assert await store.versions("m") == [version]
    await store.close()
