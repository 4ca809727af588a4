"""Versions are runs of MLflow, and learning neither waits for it nor fails with it."""

import threading
from pathlib import Path
from typing import Any

import pytest

from store.memory import MemoryStore
from store.protocols import Version
from store.spec import ModelSpec, Schedule
from trainer import tracking
from trainer.loop import Trainer
from trainer.testing import OneNumber
from trainer.tracking import Tracking

LINEAGE = {"cut": "hand", "learning": {"learning_rate": 0.02, "seed": 3}, "environment": {"code": "abc", "threads": 1}}


def _version(number: int, **given: Any) -> Version:
    return Version(
        number=number, model="m", line="main", position=f"{number}-0", created_at=1_700_000_000.0, lineage=LINEAGE,
        metrics={"loss": 0.5}, outcomes=7, **given,
    )  # fmt: skip


@pytest.mark.filterwarnings("default")
def test_each_version_is_a_run_with_its_parent_s(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra 'tracking' is not installed")
    pytest.importorskip("sqlalchemy", reason="the extra 'tracking' is not installed")
    from mlflow.tracking import MlflowClient  # noqa: PLC0415

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for told in ([_version(1), _version(2, parent=1)], [_version(3, parent=2, status="rejected", reason="worse")]):
        tracked = Tracking(uri, "m")
        for version in told:
            tracked.tell(version)
        tracked.close(60.0)
        assert (tracked.missed, tracked.problem) == (0, "")
    client: Any = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tidemill/m")
    assert experiment is not None
    runs = {run.data.tags["tidemill.version"]: run for run in client.search_runs([experiment.experiment_id])}
    assert {number: run.info.status for number, run in runs.items()} == {"1": "FINISHED", "2": "FINISHED", "3": "FAILED"}
    for child, parent in (("2", "1"), ("3", "2")):
        assert runs[child].data.tags["tidemill.parent_run"] == runs[parent].info.run_id
    assert runs["1"].data.params == {"learning_rate": "0.02", "seed": "3"}
    assert runs["1"].data.metrics == {"loss": 0.5, "outcomes": 7.0}
    assert runs["1"].data.tags["tidemill.code"] == "abc"
    assert runs["3"].data.tags["tidemill.reason"] == "worse"


def test_what_fails_is_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Tracking, version: Version) -> None:
        if version.number < 3:
            raise ConnectionError("nobody is there\nand more")

    monkeypatch.setattr(Tracking, "_log", fails)
    tracked = Tracking("http://nowhere", "m")
    tracked.tell(_version(1))
    tracked.tell(_version(2))
    tracked.close()
    assert tracked.problem == "version 2 is not logged: nobody is there (2 missed)"


def test_an_error_without_a_word_does_not_end_the_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Tracking, version: Version) -> None:
        raise TimeoutError

    monkeypatch.setattr(Tracking, "_log", fails)
    tracked = Tracking("http://nowhere", "m")
    tracked.tell(_version(1))
    tracked.tell(_version(2))
    tracked.close()
    assert tracked.problem == "version 2 is not logged: TimeoutError (2 missed)"


def test_without_mlflow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Tracking, version: Version) -> None:
        raise ModuleNotFoundError("No module named 'mlflow'")

    monkeypatch.setattr(Tracking, "_log", missing)
    tracked = Tracking("http://nowhere", "m")
    tracked.tell(_version(1))
    tracked.close()
    assert "pip install 'tidemill[tracking]'" in tracked.problem


def test_telling_does_not_wait_for_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def hangs(self: Tracking, version: Version) -> None:
        let_go.wait()

    monkeypatch.setattr(Tracking, "_log", hangs)
    monkeypatch.setattr(tracking, "WAITING", 5)
    tracked = Tracking("http://slow", "m")
    for number in range(1, 20):
        tracked.tell(_version(number))
    assert 13 <= tracked.missed <= 14  # five wait, and the thread holds one if it has begun
    let_go.set()
    tracked.close(60.0)  # not into the next test


@pytest.mark.anyio
@pytest.mark.filterwarnings("default")
async def test_a_trainer_tells_of_what_it_publishes() -> None:
    told: list[Version] = []
    store = MemoryStore()
    await Trainer(ModelSpec(name="m", features=OneNumber, schedule=Schedule(seconds=None)), store, tell=told.append).start()
    assert told == await store.versions("m")
    assert told[0].number == 1
