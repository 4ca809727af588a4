"""A trial that is taken up again anywhere is the one that never stopped, bit for bit, and no rung is learned twice."""

import random
from pathlib import Path

import pytest
from pydantic import JsonValue

from store.errors import SpecError
from store.search import Choice, Dimension, Int, LogUniform, Search, Way, default_search
from store.spec import ModelSpec
from tests.unit.tuning.simulated import Features, replay, spec
from tuning import trial as trials
from tuning.judgement import importance, on_front, ranked
from tuning.plan import SearchPlan
from tuning.result import Tried
from tuning.trial import Rung, Trial

pytestmark = pytest.mark.filterwarnings("default")

FAST: dict[str, JsonValue] = {"learning.learning_rate": 0.05, "learning.replay": {"capacity": 64, "rows": 16, "share": 0.3}}
REPLAY = replay(9)


def test_a_trial_that_died_goes_on_bit_for_bit(tmp_path: Path) -> None:
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole, cut = (Trial(spec, REPLAY, FAST, tmp_path / folder) for folder in ("whole", "cut"))
    expected = [whole.climb(end) for end in (1, 3, 9)]
    cut.climb(1)
    again = Trial(spec, REPLAY, FAST, tmp_path / "cut")
    assert [again.climb(end) for end in (1, 3, 9)] == expected
    assert again.learner().weights() == whole.learner().weights()
    assert again.learner().checkpoint() == whole.learner().checkpoint()


def test_a_rung_that_was_learned_is_read_and_not_learned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Trial(spec, REPLAY, FAST, tmp_path)
    expected = [first.climb(3), first.climb(9)]
    monkeypatch.setattr(trials, "progressive", None)
    again = Trial(spec, REPLAY, FAST, tmp_path)
    assert [again.climb(3), again.climb(9)] == expected


def test_a_trial_is_as_it_was_after_a_rung(tmp_path: Path) -> None:
    first = Trial(spec, REPLAY, FAST, tmp_path)
    first.climb(3)
    weights = first.learner().weights()
    first.climb(9)
    read = Trial.read(spec, REPLAY, tmp_path, first.key, 1)
    assert (read.key, read.settings, read.rungs) == (first.key, FAST, first.rungs[:1])
    assert read.learner().weights() == weights


def test_a_learner_that_fails_is_the_worst(tmp_path: Path) -> None:
    wild = Trial(spec, REPLAY, {"learning.learning_rate": 1e30, "learning.optimiser": {"kind": "sgd"}}, tmp_path)
    tame = Trial(spec, REPLAY, FAST, tmp_path)
    assert wild.climb(9).loss > tame.climb(9).loss


def test_a_better_rate_has_the_lower_loss(tmp_path: Path) -> None:
    slow, fast = Trial(spec, REPLAY, {}, tmp_path), Trial(spec, REPLAY, FAST, tmp_path)
    assert fast.climb(9).loss < slow.climb(9).loss


@pytest.mark.parametrize(
    ("space", "why"),
    [
        (Search(over={"learning.lr": Int(low=1, high=2)}), "'learning.lr' is no setting"),
        (Search(over={"rate": Int(low=1, high=2)}), "'rate' is no setting"),
        (Search(over={"learning.seed": Int(low=1, high=2)}), "cannot be searched"),
        (Search(over={"shape.dimension": Int(low=0, high=2)}), "shape.dimension: Input should be greater than"),
        (Search(over={"learning.optimiser": Choice(values=({"kind": "adam"}, {"kind": "lion"}))}), "lion"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_in_the_declaration(space: Search, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        ModelSpec(name="m", features=Features, search=space)


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match="low must be below high"):
        LogUniform(low=1.0, high=0.1)
    with pytest.raises(ValueError, match="low must be below high"):
        Int(low=2, high=2)


@pytest.mark.parametrize("objective", ["binary", "multiclass", "regression", "ranking"])
def test_the_default_space_suits_every_objective(objective: str) -> None:
    space = default_search(objective, own_network=False)
    assert not space.problem(Way())
    draw = random.Random(1)
    for _ in range(200):
        way = Way().altered({name: drawn(one, draw) for name, one in space.over.items()})
        assert not way.learning.problem(objective, ("a", "b") if objective in ("binary", "multiclass") else (), ())
    assert not any(name.startswith("shape") for name in default_search(objective, own_network=True).over)


def drawn(one: Dimension, draw: random.Random) -> JsonValue:
    match one:
        case Choice():
            return draw.choice(one.values)
        case Int():
            return draw.randint(one.low, one.high)
        case _:
            return draw.uniform(one.low, one.high)


def _tried(number: int, *losses: float, rate: float = 0.1) -> Tried:
    rungs = tuple(Rung(batches=place + 1, loss=loss, judged=1) for place, loss in enumerate(losses))
    return Tried(trial=number, key=str(number), settings={"rate": rate, "idle": number % 2}, rungs=rungs)


def test_the_leaderboard_begins_with_who_came_furthest() -> None:
    assert [one.trial for one in ranked([_tried(1, 0.2), _tried(2, 0.5, 0.4), _tried(3, 0.5, 0.3)])] == [3, 2, 1]


def test_what_decides_the_loss_is_what_mattered() -> None:
    found = importance([_tried(number, number / 20, rate=number / 20) for number in range(20)], seed=1)
    assert next(iter(found)) == "rate"
    assert found["rate"] > 0.9
    assert importance([_tried(1, 0.5)], seed=1) == {}


def test_a_point_that_another_beats_on_both_axes_is_off_the_front() -> None:
    assert not on_front((2.0, 2.0), [(1.0, 1.0), (2.0, 2.0)])
    assert on_front((2.0, 0.5), [(1.0, 1.0), (2.0, 0.5)])


def test_the_last_batches_are_seen_by_no_trial() -> None:
    plan = SearchPlan(model="m", source="", holdout=0.5)
    assert max(plan.rungs(100)) == 50
    assert plan.rungs(2) == [1]
