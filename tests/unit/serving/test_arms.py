"""Arms on trial harm nobody: whatever one of them does, the default arm answers, and it is on record."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from pydantic import BaseModel

from router import Planner, revise
from serving.arms import Arms
from serving.errors import Invalid, NotReady, VersionFailed
from serving.hosted import Answered, Hosted, Live, State
from serving.metrics import ReplicaMetrics
from store.encoding import Encoded
from store.policy import Experiment, Policy, Snapshot, Variant
from store.spec import ModelSpec

pytestmark = pytest.mark.anyio


class Features(BaseModel):
    x: float


class Fake:
    """A version whose score is made of x by a function."""

    def __init__(self, score: Callable[[np.ndarray], Any]) -> None:
        self._score = score
        self.threads: set[str] = set()

    def run(self, encoded: Encoded) -> np.ndarray:
        self.threads.add(threading.current_thread().name)
        return np.asarray(self._score(encoded.numbers[:, :1].astype(np.float32)))


def _fails_above(limit: float) -> Callable[[np.ndarray], Any]:
    def score(x: np.ndarray) -> np.ndarray:
        if (x > limit).any():
            raise RuntimeError("indices out of bounds\nwith a trace")
        return x / 100

    return score


def _above(limit: float, value: float) -> Callable[[np.ndarray], Any]:
    def score(x: np.ndarray) -> np.ndarray:
        return np.where(x > limit, value, x / 100).astype(np.float32)

    return score


def _half(x: np.ndarray) -> np.ndarray:
    return np.full_like(x, 0.5)


EXPERIMENT = Experiment(name="test", kind="ab", shares={"main": 0.0, "new": 1.0})
POLICY = revise(Policy(), Policy(variants=(Variant(name="main"), Variant(name="new")), experiments=(EXPERIMENT,)))


def _hosted() -> Hosted:
    return Hosted(ModelSpec(name="m", features=Features).record, 100, ReplicaMetrics())


def _state(**scores: Callable[[np.ndarray], Any]) -> State:
    live = {name: Live(number, cast(Any, Fake(score))) for number, (name, score) in enumerate(scores.items(), 1)}
    return State(Snapshot(policy=POLICY, epoch=4), Planner(POLICY), live)


@pytest.fixture
def arms() -> Arms:
    return Arms(trial_timeout_s=0.2)


async def _ask(arms: Arms, state: State, *xs: float, forced: str | None = None) -> Answered:
    hosted = _hosted()
    body = json.dumps({"instances": [{"features": {"x": x}, "unit": f"u{x:g}"} for x in xs]}).encode()
    return await arms.answer(hosted, state, hosted.read(state, body, (), forced))


def _by_row(answered: Answered) -> list[tuple[float, str, float, tuple[str, ...]]]:
    predictions = answered.predictions
    served = [predictions.served[arm] for arm in predictions.arms]
    return [
        (output[0], of.variant, of.propensity, of.experiments) for output, of in zip(predictions.outputs, served, strict=True)
    ]


async def test_an_arm_that_works_is_logged_with_its_experiment_and_epoch(arms: Arms) -> None:
    answered = await _ask(arms, _state(main=_half, new=lambda x: x / 100), 1.0, 2.0)
    assert _by_row(answered) == [
        (pytest.approx(0.01), "new", 1.0, ("test",)),
        (pytest.approx(0.02), "new", 1.0, ("test",)),
    ]
    [served] = answered.predictions.served
    assert (served.version, served.epoch, answered.failures) == (2, 4, [])
    assert served.latency_s > 0.0


@pytest.mark.parametrize(
    "broken",
    [
        _fails_above(10),
        _above(10, np.nan),
        _above(10, np.inf),
    ],
)
async def test_what_an_arm_on_trial_cannot_answer_the_default_arm_does(arms: Arms, broken: Callable[..., Any]) -> None:
    answered = await _ask(arms, _state(main=_half, new=broken), 1.0, 11.0, 2.0)
    rescued = (0.5, "main", 0.0, ())
    assert _by_row(answered) == [
        (pytest.approx(0.01), "new", 1.0, ("test",)),
        rescued,
        (pytest.approx(0.02), "new", 1.0, ("test",)),
    ]
    [failure] = answered.failures
    assert (failure.units, failure.variant, failure.version) == (["u11"], "new", 2)
    assert (failure.experiments, failure.reason, failure.rescued) == (("test",), "error", True)
    assert "trace" not in failure.text


async def test_an_arm_on_trial_that_hangs_is_left_behind(arms: Arms) -> None:
    release = threading.Event()

    def hangs(x: np.ndarray) -> np.ndarray:
        release.wait(5.0)
        return x

    state = _state(main=_half, new=hangs)
    state.live["new"].run_s = 1.0  # known to be slow
    answered = await _ask(arms, state, 1.0)
    release.set()
    assert _by_row(answered) == [(0.5, "main", 0.0, ())]
    [failure] = answered.failures
    assert (failure.reason, failure.rescued) == ("timeout", True)


async def test_a_slow_version_leaves_the_loop_after_its_first_run(arms: Arms) -> None:
    def slow(x: np.ndarray) -> np.ndarray:
        time.sleep(0.03)
        return x / 100

    state = _state(main=_half, new=slow)
    await _ask(arms, state, 1.0)
    await _ask(arms, state, 1.0)
    here, elsewhere = sorted(cast(Any, state.live["new"].session).threads, key=lambda name: name != "MainThread")
    assert here == "MainThread"
    assert elsewhere.startswith("trials")


async def test_a_version_that_is_not_there_yet_is_a_failure_of_its_arm_alone(arms: Arms) -> None:
    answered = await _ask(arms, _state(main=_half), 1.0)
    assert _by_row(answered) == [(0.5, "main", 0.0, ())]
    assert answered.failures[0].version == 0


async def test_the_default_arm_has_nobody_behind_it(arms: Arms) -> None:
    with pytest.raises(VersionFailed, match="version 1 of model 'm' could not answer: indices out of bounds") as caught:
        await _ask(arms, _state(main=_fails_above(10), new=_fails_above(10)), 1.0, 11.0)
    trial, default = caught.value.failures
    assert (trial.variant, trial.rescued, default.variant, default.rescued) == ("new", True, "main", False)
    assert trial.units == default.units == ["u11"]
    with pytest.raises(NotReady):
        await _ask(arms, _state(), 1.0)


async def test_a_tester_sees_what_the_forced_arm_does(arms: Arms) -> None:
    state = _state(main=_half, new=_fails_above(10))
    assert _by_row(await _ask(arms, state, 1.0, forced="new")) == [(pytest.approx(0.01), "new", 0.0, ())]
    with pytest.raises(VersionFailed):
        await _ask(arms, state, 11.0, forced="new")
    with pytest.raises(Invalid, match="no variant 'other' can answer; there are main, new"):
        await _ask(arms, state, 1.0, forced="other")
