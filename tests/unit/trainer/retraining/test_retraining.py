"""What is retrained from the archive is a version of a line of its own, the same whenever the same is asked for."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load

from store.artefact import check_golden, open_session
from store.errors import NotFound
from store.memory import MemoryStore
from store.protocols import Version
from store.publishing import publish
from store.records import Outcome
from store.spec import ModelSpec
from tests.unit.trainer.retraining.simulated import DAY_1, SOURCE, archive, outcomes, spec
from trainer.errors import Irreproducible, RetrainingError
from trainer.learner import NOTHING, Learned, Learner
from trainer.lineage.reproduction import reproduce
from trainer.retraining.course import Learnt, carry_out, shared
from trainer.retraining.plan import Plan, planned
from trainer.retraining.publication import published
from trainer.testing import OneNumber

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]


learn = Learner.learn


def _refusing(self: Learner, outcomes: Sequence[Outcome], seed: str) -> Learned:
    """Learn, and go back, as after a gate that is not passed."""
    learned = learn(self, outcomes, seed)
    self.undo()
    return replace(learned, rejected="nobody wants it")


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await store.register(spec.record.model_copy(update={"source": SOURCE}))
    return store


async def _retrained(store: MemoryStore, folder: Path, **given: Any) -> tuple[Version, bool]:
    plan = await planned(store, "m", folder=str(folder), **given)
    weights = await store.weights("m", plan.parent) if plan.parent else b""
    return await published(store, plan, carry_out(plan, weights))


async def test_a_version_of_its_own_line_comes_of_it(store: MemoryStore, tmp_path: Path) -> None:
    archive(tmp_path)
    version, before = await _retrained(store, tmp_path)
    assert (version.line, version.parent, version.outcomes, before) == ("retrained", 0, 1_000, False)
    assert (await store.snapshot("m")).channels == {"retrained@latest": 1}
    assert version.spec == spec.record.digest
    assert version.lineage["window"] == {"since": None, "until": None, "through": "1-99", "outcomes": 1_000}
    graph = await store.graph("m", version.graph)
    check_golden(open_session(graph.onnx, await store.weights("m", 1)), graph.golden_inputs, version.golden, version.tolerance)


async def test_each_batch_is_scored_before_it_is_learned(store: MemoryStore, tmp_path: Path) -> None:
    archive(tmp_path, 300)
    plan = await planned(store, "m", folder=str(tmp_path), passes=2)
    learner, loss, found, learned = Learner(spec), 0.0, outcomes(300), NOTHING
    for number, batch in enumerate(shared(300, 128, 1)):
        learned = learner.learn([found[row] for row in batch], f"0-{number}")
        loss += learned.loss * learned.rows / 300
    told: list[tuple[int, int]] = []
    learnt = carry_out(plan, b"", lambda done, of: told.append((done, of)))
    assert learnt.loss == pytest.approx(loss)
    assert learnt.recent_loss == learned.recent_loss
    assert told == [(128, 600), (256, 600), (300, 600), (428, 600), (556, 600), (600, 600)]
    assert learnt.weights != carry_out(plan.model_copy(update={"passes": 1}), b"").weights


async def test_the_same_again_is_not_published_again(store: MemoryStore, tmp_path: Path) -> None:
    archive(tmp_path, 300)
    first, _ = await _retrained(store, tmp_path)
    assert await _retrained(store, tmp_path) == (first, True)
    second, before = await _retrained(store, tmp_path, passes=2)
    assert (second.number, before) == (2, False)
    assert (await _retrained(store, tmp_path, line="other"))[0].number == 3


async def test_only_the_window_is_learned(store: MemoryStore, tmp_path: Path) -> None:
    for day in range(3):
        archive(tmp_path, 200, day)
    later = DAY_1 + timedelta(days=1)
    version, _ = await _retrained(store, tmp_path, since=later, until=later + timedelta(seconds=150))
    assert version.outcomes == 150
    assert version.lineage["cut"] == "retrained on the archive from 2026-03-02 00:00 to 2026-03-02 00:02"


async def test_a_plan_holds_its_window_while_the_archive_grows(store: MemoryStore, tmp_path: Path) -> None:
    archive(tmp_path, 300)
    plan = await planned(store, "m", folder=str(tmp_path))
    alone = carry_out(plan, b"")
    archive(tmp_path, 300, day=1)
    assert carry_out(plan, b"") == alone
    with pytest.raises(RetrainingError, match="the archive had 299 outcomes of all of the archive, and now has 300"):
        carry_out(plan.model_copy(update={"outcomes": 299}), b"")


async def test_a_version_s_weights_are_learned_on(store: MemoryStore, tmp_path: Path) -> None:
    archive(tmp_path, 1_000)
    archive(tmp_path, 300, day=1)
    later = DAY_1 + timedelta(days=1)
    scratch, _ = await _retrained(store, tmp_path, since=later)
    parent, _ = await _retrained(store, tmp_path, until=later, passes=3, line="base")
    version, _ = await _retrained(store, tmp_path, since=later, parent=parent.number)
    assert version.parent == parent.number
    assert version.metrics["loss"] < scratch.metrics["loss"]
    mean = {
        number: load(await store.weights("m", number))["network.standardise.mean"]
        for number in (parent.number, version.number, scratch.number)
    }
    # Its 300 rows are a fourth of all that the statistics stand for.
    expected = mean[parent.number] + (mean[scratch.number] - mean[parent.number]) * 300 / 1_300
    assert mean[version.number] == pytest.approx(expected, rel=0.05, abs=0.01)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"since": DAY_1 + timedelta(days=9)},
            r"no outcomes of model 'm' are archived in .* for that time; 'tidemill",
        ),
        ({"since": DAY_1 + timedelta(hours=9)}, "no prediction of model 'm' in the archive from 2026-03-01 09:00"),
        ({"line": "main"}, "line 'main' is the trainer's"),
        ({"line": "main-compressed"}, "line 'main-compressed' is the trainer's"),
        ({"line": ""}, "line '': use lower-case letters"),
        ({"line": "a b/../c:d"}, "line 'a b/../c:d': use lower-case letters"),
        ({"line": "x\n"}, "use lower-case letters"),
        pytest.param(
            {"device": "cuda"},
            "torch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ({"workers": 301}, "301 workers cannot share 300 outcomes"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_learned(
    store: MemoryStore, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    archive(tmp_path, 300)
    with pytest.raises(RetrainingError, match=said):
        await planned(store, "m", folder=str(tmp_path), **given)


async def test_models_and_versions_that_are_not_there_are_said(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(RetrainingError, match="no outcomes of model 'm' are archived"):
        await planned(store, "m", folder=str(tmp_path / "none"))
    archive(tmp_path, 300)
    with pytest.raises(NotFound, match="no version 5"):
        await planned(store, "m", folder=str(tmp_path), parent=5)
    with pytest.raises(NotFound, match="no model 'n'"):
        await planned(store, "n", folder=str(tmp_path))
    await store.register(ModelSpec(name="given", features=OneNumber).record)
    with pytest.raises(RetrainingError, match="nothing trains model 'given'"):
        await planned(store, "given", folder=str(tmp_path))


async def test_weights_of_another_network_are_refused(store: MemoryStore, tmp_path: Path) -> None:
    archive(tmp_path, 300)
    version, _ = await _retrained(store, tmp_path)
    graph, weights = await store.graph("m", version.graph), await store.weights("m", version.number)
    foreign = await publish(store, "m", graph, weights, "imported")
    with pytest.raises(RetrainingError, match="version 2 is of another network"):
        await planned(store, "m", folder=str(tmp_path), parent=foreign.number)


async def test_nothing_learned_is_said(store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path, 300)
    plan = await planned(store, "m", folder=str(tmp_path))
    monkeypatch.setattr(Learner, "learn", _refusing)
    with pytest.raises(RetrainingError, match="nothing could be learned: nobody wants it"):
        carry_out(plan, b"")


async def test_how_a_retrained_version_is_made_again_is_said(store: MemoryStore, tmp_path: Path) -> None:
    archive(tmp_path, 300)
    version, _ = await _retrained(store, tmp_path)
    with pytest.raises(Irreproducible, match=r"retrained from the archive: .*makes the same, and says so"):
        await reproduce(spec, store, version.number)


def test_every_worker_has_a_part_in_every_batch() -> None:
    for outcomes_ in range(3, 60):
        for rows in (1, 2, 7):
            batches = shared(outcomes_, rows, 3)
            assert [row for batch in batches for row in batch] == list(range(outcomes_))
            assert min(len(batch) for batch in batches) >= 3


def test_a_plan_survives_json() -> None:
    plan = Plan(model="m", source=SOURCE, learning=spec.learning, folder="a", since=DAY_1, workers=2)
    assert Plan.model_validate(plan.model_dump(mode="json")) == plan
    assert replace(Learnt(b"", 0.5, 0.4), loss=0.6).metrics == {"loss": 0.6, "recent_loss": 0.4}
