"""What replay is for: on a stream whose regimes alternate, the old one is not forgotten while the new one is learned."""

from functools import cache

import numpy as np
import pytest
from pydantic import BaseModel

from store.learning import Replay
from store.records import Outcome, Served
from store.spec import Learning, ModelSpec
from trainer.learner import Learner

PHASES, BATCHES, ROWS = 4, 20, 256


class Seen(BaseModel):
    regime: float
    x: float
    y: float


def _outcomes(count: int, regime: int, draw: np.random.Generator) -> list[Outcome]:
    """In one regime a large x makes the label likely, in the other unlikely; the network can tell them apart by the mark."""
    sign = 1.0 if regime else -1.0
    x = draw.normal(size=(count, 2))
    labels = draw.random(count) < 1 / (1 + np.exp(-3 * sign * x[:, 0] - x[:, 1]))
    served = Served("main", 1, 1.0)
    return [
        Outcome(str(index), "u", [sign, *row], [0.5], served, int(label), "label", True, 0.0, 1.0, 1.0)
        for index, (row, label) in enumerate(zip(x.tolist(), labels, strict=True))
    ]


def _rises(replay: Replay | None, seed: int) -> tuple[float, ...]:
    """By how much the loss on the other regime rose in each phase after the first."""
    draw, rises = np.random.default_rng(seed), list[float]()
    learner = Learner(ModelSpec(name="m", features=Seen, learning=Learning(replay=replay, seed=seed)))
    judge = Learner(ModelSpec(name="m", features=Seen))
    tests = [_outcomes(2000, regime, np.random.default_rng([seed, regime])) for regime in (0, 1)]

    def loss(regime: int) -> float:
        judge.scorer.load_state_dict(learner.scorer.state_dict())
        return judge.learn(tests[regime], "judged").loss

    for phase in range(PHASES):
        old = 1 - phase % 2
        before = loss(old)
        for batch in range(BATCHES):
            assert learner.learn(_outcomes(ROWS, phase % 2, draw), f"{phase}-{batch:05d}").rejected == ""
        rises.append(loss(old) - before)
    return tuple(rises[1:])


@cache
def _forgotten(seed: int) -> tuple[float, ...]:
    return _rises(None, seed)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("replay", [Replay(), Replay(kind="stratified"), Replay(kind="stratified", by="regime")], ids=str)
def test_replay_keeps_the_old_regime(replay: Replay, seed: int) -> None:
    forgotten, kept = _forgotten(seed), _rises(replay, seed)
    assert all(rise > 0.1 for rise in forgotten), "without it, each change of regime costs what was learned of the other"
    assert all(with_replay < without / 3 for with_replay, without in zip(kept, forgotten, strict=True))
    assert sum(kept) < sum(forgotten) / 10
