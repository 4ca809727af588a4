"""What every strategy promises, whatever the rankings."""

import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.interleaving import NOBODY, STRATEGIES, Draft, Strategy, credit, programme
from router.statistics.relative_risk import GRID

ITEMS = "abcdefghij"
ALARM = math.log(2 / 0.05)
rankings = st.lists(st.lists(st.sampled_from(ITEMS), unique=True, max_size=8), min_size=2, max_size=4)
strategies = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


@strategies
@settings(max_examples=60, deadline=None)
@given(offered=rankings, k=st.integers(1, 10), seed=st.integers(0, 2**64))
def test_it_shows_what_was_offered_once_and_as_much_as_there_is(
    strategy: Strategy, offered: list[list[str]], k: int, seed: int
) -> None:
    draft = strategy(offered, k, seed)
    everything = {item for ranking in offered for item in ranking}
    assert len(set(draft.items)) == len(draft.items) == min(k, len(everything))
    assert set(draft.items) <= everything
    assert (draft.seed, draft.rankers) == (seed, len(offered))
    assert draft == strategy([tuple(ranking) for ranking in offered], k, seed)


@strategies
@settings(max_examples=30, deadline=None)
@given(ranking=st.lists(st.sampled_from(ITEMS), unique=True, max_size=8), rankers=st.integers(2, 4), seed=st.integers(0, 99))
def test_equal_rankings_credit_nobody(strategy: Strategy, ranking: list[str], rankers: int, seed: int) -> None:
    draft = strategy([ranking] * rankers, 5, seed)
    assert credit(draft, draft.items) == (0.0,) * rankers


@strategies
def test_where_a_ranker_failed_the_other_is_served_and_nobody_credited(strategy: Strategy) -> None:
    for offered, k in (([[], ["a", "b", "c"]], 2), ([["a", "b", "c"], []], 5)):
        draft = strategy(offered, k, 1)
        assert draft.items == ("a", "b", "c")[:k]
        assert set(draft.teams) == {NOBODY}
    assert set(strategy([["a", "b"], [], ["c", "d"]], 4, 1).teams) == {NOBODY}
    assert strategy([[], []], 5, 1).items == ()


@strategies
@pytest.mark.parametrize(
    "wrong", [([["a"]], 1), ([], 1), ([["a"], ["a", "b", "a"]], 1), ([["a"], ["b"]], 0)], ids=["one", "none", "twice", "no k"]
)
def test_nonsense_is_refused(strategy: Strategy, wrong: tuple[list[list[str]], int]) -> None:
    with pytest.raises(ValueError, match=r"two rankings|twice|at least 1"):
        strategy(*wrong, 0)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("rankers", [2, 3])
def test_each_ranker_goes_first_as_often_as_any_other(name: str, rankers: int) -> None:
    offered = [list(np.roll(list(ITEMS), turn)) for turn in range(rankers)]
    first = Counter(draft.teams[0] for draft in _drafts(name, [offered], 4, [0] * 3_000))
    del first[NOBODY]
    spread = 4.0 * math.sqrt(first.total() / rankers * (1.0 - 1.0 / rankers))
    assert all(abs(first[team] - first.total() / rankers) < spread for team in range(rankers))
    assert first.total() > 2_500


def test_every_process_draws_the_same() -> None:
    code = (
        "from router.interleaving import STRATEGIES\n"
        "offered = [list('abcdefgh'), list('hbdacgef'), list('cbadehgf')]\n"
        "print([[of(offered[:n], 6, seed) for seed in range(5)] for of in STRATEGIES.values() for n in (2, 3)])"
    )
    drawn = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert len(drawn) == 1


def test_importing_it_loads_no_scipy() -> None:
    code = "import sys, router.interleaving; sys.exit('scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _alarms(clicks: np.ndarray, drafts: list[Draft], runs: int) -> float:
    """The share of runs in which watching after every unit, of one draft each, ever says that one ranker is better.

    Args:
        clicks: whether a position was clicked on [units, positions].
    """
    teams = np.array([draft.teams for draft in drafts])
    counted = clicks & (teams != NOBODY)
    if drafts[0].once:
        counted &= counted.cumsum(axis=1) == 1
    credits = [(counted & (teams == team)).sum(axis=1) for team in (0, 1)]
    ahead = np.sign(credits[0] - credits[1]).reshape(runs, -1)
    a, b = (ahead == 1).cumsum(axis=1), (ahead == -1).cumsum(axis=1)
    up = np.log([2.0 * r / (1.0 + r) for r in GRID])
    down = np.log([2.0 / (1.0 + r) for r in GRID])
    worst = np.full(runs, -np.inf)
    for wins, losses in ((a, b), (b, a)):
        evidence = sum(np.exp(wins * one + losses * other) for one, other in zip(up, down, strict=True))
        worst = np.maximum(worst, np.log(evidence / len(GRID)).max(axis=1))
    return float((worst >= ALARM).mean())


def _drafts(name: str, offered: list[list[list[str]]], k: int, which: list[int]) -> list[Draft]:
    """One draft for each unit, of the rankings that it asks for, with its number as seed."""
    if name == "optimised":
        of = [programme(one, k) for one in offered]
        return [of[query].draw(seed) for seed, query in enumerate(which)]
    return [STRATEGIES[name](offered[query], k, seed) for seed, query in enumerate(which)]


@pytest.mark.simulation
@pytest.mark.parametrize("name", STRATEGIES)
def test_two_equally_good_rankers_are_told_apart_in_less_than_a_twentieth(name: str) -> None:
    runs, units, queries = 250, 120, 30
    draw = np.random.default_rng(5)
    attraction = draw.beta(1.0, 3.0, (queries, 20))
    scores = attraction[:, None] + 0.2 * draw.normal(size=(queries, 2, 20))
    offered = [[[chr(65 + item) for item in np.argsort(-one)] for one in query] for query in scores]
    # Each query once more with the rankers exchanged: over queries, neither is better.
    offered += [query[::-1] for query in offered]
    which = draw.integers(len(offered), size=runs * units)
    drafts = _drafts(name, offered, 10, which.tolist())
    items = np.array([[ord(item) - 65 for item in draft.items] for draft in drafts])
    looked = draw.random(items.shape) < 0.7 ** np.arange(10)
    clicks = looked & (draw.random(items.shape) < attraction[which[:, None] % queries, items])
    assert _alarms(clicks, drafts, runs) <= 0.05


@pytest.mark.simulation
@pytest.mark.parametrize("name", STRATEGIES)
def test_random_clicks_favour_no_ranker_however_its_ranking_is_made(name: str) -> None:
    runs, units = 250, 120
    plain = list("abcdefghijkl")
    promoted = [*plain[5:6], *plain[:5], *plain[6:]]  # one item moved up, the others down
    drafts = _drafts(name, [[plain, promoted]], 10, [0] * runs * units)
    draw = np.random.default_rng(7)
    for clickiness in (0.15, 0.6):
        clicks = draw.random((runs * units, 10)) < clickiness * 0.9 ** np.arange(10)
        assert _alarms(clicks, drafts, runs) <= 0.05
