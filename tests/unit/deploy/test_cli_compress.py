"""`tidemill compress` says what each method saves and costs, publishes what was asked for, and what is wrong."""

import asyncio
import json
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from torch import nn

from deploy import cli_compress, compressing
from deploy.compressing import Candidate, Found, choose
from store.memory import MemoryStore
from store.names import outcome_stream
from store.policy import Policy, Variant
from store.protocols import Advance, Commit, Version
from store.publishing import publish
from store.records import Outcome, Outcomes, Predictions, Served, pack_log, pack_outcomes
from store.schema import Row, Schema
from store.spec import ModelSpec, Schedule
from tests.unit.deploy.conftest import FakePlatform
from trainer.compression.speed import BATCHES
from trainer.errors import CompressionError
from trainer.loop import Trainer
from trainer.testing import OneNumber

pytestmark = pytest.mark.filterwarnings("default")

SERVED = Served("main", 1, 1.0)


class Kept(MemoryStore):
    """A store that outlives its connections."""

    async def close(self) -> None:
        self._moved = asyncio.Event()  # the next command has an event loop of its own


def _start(store: Kept, spec: ModelSpec) -> None:
    """Publish a model's version 1."""

    async def start() -> None:
        await Trainer(spec, store).start()
        await store.close()

    asyncio.run(start())


def _network(schema: Schema, outputs: int) -> Any:
    class Bent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(schema.numbers, 32), nn.ReLU(), nn.Linear(32, outputs))

        def forward(self, numbers: Any, categories: Any) -> Any:
            return self.layers(numbers)

    return Bent()


@pytest.fixture(scope="module")
def filled() -> Kept:
    store = Kept()
    spec = ModelSpec(name="m", features=OneNumber, network=_network, schedule=Schedule(seconds=None))
    _start(store, spec)
    return store


@pytest.fixture
def store(filled: Kept, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """A store in which model m has version 1."""
    store = deepcopy(filled)
    monkeypatch.setattr(cli_compress, "RedisStore", lambda url, prefix: store)  # pyright: ignore[reportUnknownLambdaType]
    return store


def _log(store: Kept, rows: int = 200) -> None:
    values: list[Row] = [[float(number % 17) - 8.0] for number in range(rows)]
    ids = [f"p{number}" for number in range(rows)]
    asked = Predictions(1.0, ids, ids, values, [[0.5]] * rows, [SERVED], [0] * rows)
    outcomes = [
        Outcome(id_, id_, row, [0.5], SERVED, float(number % 3 == 0), "label", True, 1.0, 2.0, 2.0)
        for number, (id_, row) in enumerate(zip(ids, values, strict=True))
    ]
    entries = [("m:log", pack_log(asked)), (outcome_stream("m"), pack_outcomes(Outcomes(outcomes)))]
    asyncio.run(store.append(entries))


def _versions(store: Kept) -> list[Version]:
    return asyncio.run(store.versions("m"))[::-1]


def test_every_method_that_applies_is_published_on_a_line_of_its_own(platform: FakePlatform, store: Kept) -> None:
    _log(store)
    said = platform.says("compress", "m", "--version", "1")
    assert "m, version 1 and its children" in said
    assert "quality on 200 labelled predictions" in said
    for words in ("1 row", "512 rows", "AUC", "log loss", "ECE", "agrees", "max diff", "KiB"):
        assert words in said
    assert said.index("parent") < said.index("dynamic_int8") < said.index("static_int8") < said.index("fp16")
    assert "int4: not applicable: the graph has no MatMul with a weight matrix of at least 256 columns" in said
    assert "fp16: published as version 4 on line main-fp16" in said
    children = _versions(store)[1:]
    assert [one.line for one in children] == ["main-dynamic-int8", "main-static-int8", "main-fp16"]
    for child in children:
        assert (child.parent, child.lineage["parent"]) == (1, 1)
        measured = child.lineage["measured"]
        assert set(measured["latency_s"]) == {1, 32, 512}
        assert {"auc", "log_loss", "calibration_error", "agreement", "max_difference"} <= set(measured["quality"])
        assert measured["quality"]["max_difference"] < 0.02
        assert measured["outcomes"] == 200


def test_where_a_child_is_slower_it_is_said(platform: FakePlatform, store: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def slower(sessions: dict[str, Any], _: Any) -> dict[str, dict[int, float]]:
        return {name: dict.fromkeys(BATCHES, 1e-4 if name == "parent" else 2e-4) for name in sessions}

    monkeypatch.setattr(compressing, "latencies", slower)
    said = platform.says("compress", "m", "--method", "dynamic_int8", "--dry-run")
    assert "0.200 ms 0.50 times" in said
    assert "dynamic_int8 is slower than its parent at 1, 32, 512 rows" in said
    assert len(_versions(store)) == 1, "a dry run publishes nothing"


def test_without_labels_latency_is_measured_and_quality_is_not(platform: FakePlatform, store: Kept) -> None:
    said = platform.says("compress", "m")
    assert "no quality measured: no labels yet" in said
    assert "AUC" not in said
    assert "static_int8: not applicable: it is calibrated on at least 100 logged predictions, and there are 0" in said
    found = json.loads(platform.says("compress", "m", "--method", "fp16", "--json"))
    parent, child = found["candidates"]
    assert (found["version"], found["outcomes"], parent["method"], child["method"]) == (1, 0, "parent", "fp16")
    assert (child["quality"], child["loss"]) == ({}, None)
    assert child["latency_s"]["1"] > 0.0
    assert (child["version"], child["before"]) == (len(_versions(store)), True)
    assert "fp16: is the same as version 3 on line main-fp16" in platform.says("compress", "m", "--method", "fp16")
    assert len(_versions(store)) == 3
    assert "no quality measured: model 'm' has no labelled predictions" in platform.refuses("compress", "m", "--choose")


def test_the_fastest_within_the_loss_is_chosen_and_alone_is_published(
    platform: FakePlatform, store: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    _log(store)

    def fp16_first(sessions: dict[str, Any], _: Any) -> dict[str, dict[int, float]]:
        return {name: dict.fromkeys(BATCHES, 1e-4 if name == "fp16" else 2e-4) for name in sessions}

    monkeypatch.setattr(compressing, "latencies", fp16_first)
    said = platform.says("compress", "m", "--choose", "--max-loss", "0.02")
    assert "fp16 is the fastest at 1 row of those that lose at most 2.00%" in said
    assert [one.line for one in _versions(store)] == ["main", "main-fp16"]


def test_where_none_is_faster_none_is_published(platform: FakePlatform, store: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    _log(store)

    def parent_first(sessions: dict[str, Any], _: Any) -> dict[str, dict[int, float]]:
        return {name: dict.fromkeys(BATCHES, 1e-4 if name == "parent" else 2e-4) for name in sessions}

    monkeypatch.setattr(compressing, "latencies", parent_first)
    said = platform.says("compress", "m", "--choose", "--batch", "32")
    assert "none is a tenth faster than version 1 at 32 rows and loses at most 1.00%: nothing is published" in said
    assert len(_versions(store)) == 1


def test_a_choice_keeps_to_the_loss_that_was_stated() -> None:
    candidates = [
        Candidate("parent", latency_s={1: 3.0}, speed={1: 1.0}, loss=0.0),
        Candidate("dynamic_int8", latency_s={1: 1.0}, speed={1: 3.0}, loss=0.05),
        Candidate("fp16", latency_s={1: 2.0}, speed={1: 1.5}, loss=0.01),
        Candidate("int4", why_not="too small"),
    ]
    found = Found("m", 1, "main", 10, candidates)
    assert [choose(found, most, 1) for most in (0.0, 0.04, 0.05)] == ["parent", "fp16", "dynamic_int8"]
    candidates[2].speed = {1: 1.05}
    assert choose(found, 0.04, 1) == "parent", "what is hardly faster is noise"
    found.outcomes = 0
    with pytest.raises(CompressionError, match="no quality measured"):
        choose(found, 0.1, 1)


def test_what_cannot_be_compressed_is_said_in_one_sentence(platform: FakePlatform, store: Kept) -> None:
    assert "no model 'n'; there are: m" in platform.refuses("compress", "n")
    assert "has no version 7" in platform.refuses("compress", "m", "--version", "7")
    assert "--method int2: there are dynamic_int8, static_int8, fp16, int4" in platform.refuses(
        "compress", "m", "--method", "int2"
    )
    platform.says("compress", "m", "--method", "fp16")
    again = platform.refuses("compress", "m", "--version", "2")
    assert "version 2 is compressed already, by fp16: compress version 1, its parent" in again
    bad = Version(model="m", line="other", position="1-0", status="rejected", reason="weights are not finite")
    asyncio.run(store.commit("m", Commit(Advance("learner:m:other", "0-0", "1-0"), bad)))
    assert "version 3 is rejected: weights are not finite" in platform.refuses("compress", "m", "--version", "3")


def test_a_version_without_a_matrix_product_is_left_alone(platform: FakePlatform, store: Kept) -> None:
    def scale(schema: Schema, outputs: int) -> Any:
        class Scale(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Linear(1, 1).bias

            def forward(self, numbers: Any, categories: Any) -> Any:
                return numbers * self.scale

        return Scale()

    _start(store, ModelSpec(name="s", features=OneNumber, network=scale))
    said = platform.says("compress", "s")
    assert "dynamic_int8: not applicable: the graph has no MatMul" in said
    assert "fp16: not applicable: the graph has no weight matrix" in said
    assert "published" not in said


def test_where_nothing_is_trained_what_the_default_arm_runs_is_compressed(platform: FakePlatform, store: Kept) -> None:
    async def imported() -> None:
        first = await store.version("m", 1)
        graph, weights = await store.graph("m", first.graph), await store.weights("m", 1)
        await store.register((await store.models())["m"].model_copy(update={"name": "foreign", "trainable": False}))
        await publish(store, "foreign", graph, weights, "imported")
        await store.set_policy("foreign", Policy(variants=(Variant(name="main", line="imported"),)), 0)
        await store.close()

    asyncio.run(imported())
    found = json.loads(platform.says("compress", "foreign", "--method", "fp16", "--json"))
    assert (found["version"], found["line"], found["candidates"][1]["line"]) == (1, "imported", "imported-fp16")


def test_classes_are_measured_as_well(platform: FakePlatform, store: Kept) -> None:
    spec = ModelSpec(
        name="c", features=OneNumber, objective="multiclass", classes=("x", "y", "z"), schedule=Schedule(seconds=None)
    )
    _start(store, spec)
    outcomes = [
        Outcome(f"p{number}", "u", [number / 60], [0.3] * 3, SERVED, "xyz"[number % 3], "label", True, 1.0, 2.0, 2.0)
        for number in range(60)
    ]
    asyncio.run(store.append([(outcome_stream("c"), pack_outcomes(Outcomes(outcomes)))]))
    found = json.loads(platform.says("compress", "c", "--method", "dynamic_int8", "--json"))
    figures = found["candidates"][1]["quality"]
    assert {"auc", "log_loss", "agreement"} <= set(figures)
    assert np.isfinite(list(figures.values())).all()


def test_the_trainers_lines_are_not_published_on(store: Kept) -> None:
    async def attempt() -> None:
        graph = await store.graph("m", (await store.version("m", 1)).graph)
        for line in ("main", "main-compressed"):
            with pytest.raises(ValueError, match=f"line '{line}' is the trainer's"):
                await publish(store, "m", graph, await store.weights("m", 1), line)

    asyncio.run(attempt())
    assert asyncio.run(store.snapshot("m")).policy == Policy()
