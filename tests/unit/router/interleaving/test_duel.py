"""Units decided between rankers, watched at every unit."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from router.interleaving import NOBODY, Draft, Duel, Duels, Outcome, credit, total, verdict
from router.statistics import RelativeRisk

units = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30)


def test_a_click_credits_the_team_once_and_the_prefix_nobody() -> None:
    draft = Draft(("x", "a", "b", "c"), (NOBODY, 1, 0, 2), 0, rankers=3)
    assert credit(draft, ["x", "a", "a", "elsewhere"]) == (0.0, 1.0, 0.0)
    assert credit(draft, []) == (0.0, 0.0, 0.0)
    assert credit(Draft(("x", "a", "b"), (NOBODY, 1, 0), 0, once=True), ["b", "a", "x"]) == (0.0, 1.0)
    assert total([(0.0, 1.0, 0.0), (2.0, 0.0, 1.0)]) == (2.0, 1.0, 1.0)


@pytest.mark.parametrize("wrong", [(("a",), (), 2), (("a",), (2,), 2), (("a",), (-2,), 2)])
def test_a_draft_names_a_team_for_each_item(wrong: tuple[tuple[str, ...], tuple[int, ...], int]) -> None:
    with pytest.raises(ValueError, match="team"):
        Draft(wrong[0], wrong[1], 0, wrong[2])


@given(units, st.integers(0, 30))
def test_each_unit_is_one_outcome_and_parts_add_up(earned: list[tuple[int, int]], cut: int) -> None:
    def collected(some: list[tuple[int, int]]) -> Duel:
        duel = Duel()
        for a, b in some:
            duel = duel.add(a, b)
        return duel

    whole = collected(earned)
    assert whole == collected(earned[:cut]) + collected(earned[cut:])
    assert whole.decisive + whole.ties + whole.none == len(earned)
    assert whole.wins_a == sum(verdict(a, b) == Outcome.A for a, b in earned)


def test_it_is_the_relative_risk_in_both_directions_at_half_of_alpha() -> None:
    for wins in range(100, 140):
        duel = Duel(wins, 100, ties=7, none=9)
        found = RelativeRisk(0.5).add(wins, 100).log_e >= math.log(2 / 0.05)
        assert duel.better(0.05) == (Outcome.A if found else None)
        assert Duel(100, wins).better(0.05) == (Outcome.B if found else None)
    assert Duel(140, 100).better(0.001) is None


def test_between_equals_its_e_values_are_fair() -> None:
    n = 40
    e = [(stats.binom.pmf(wins, n, 0.5), np.exp(Duel(wins, n - wins).log_e)) for wins in range(n + 1)]
    assert sum(chance * values for chance, values in e) == pytest.approx([1.0, 1.0])


def test_three_rankers_are_judged_together() -> None:
    duels = Duels.among(3)
    for _ in range(14):
        duels = duels.add((2.0, 0.0, 1.0)) + Duels.among(3).add((1.0, 0.0, 0.0))
    assert duels.pairs[0, 1].wins_a == 28
    assert duels.pairs[1, 2] == Duel(wins_b=14, none=14)
    # Six directions share one alpha, where a single duel would have two: 14 wins to none are not enough for that.
    assert duels.pairs[1, 2].better() == Outcome.B
    assert math.log(2 / 0.05) < duels.pairs[1, 2].log_e[1] < math.log(6 / 0.05) or (2, 1) in duels.better()
    assert {(0, 1), (0, 2)} <= set(duels.better())


def _median_stop(rate: float, runs: int = 60, most: int = 4_000) -> float:
    draw = np.random.default_rng(11)
    stops: list[float] = []
    for _ in range(runs):
        a = np.cumsum(draw.random(most) < rate)
        stops.append(next((n for n in range(10, most, 10) if Duel(int(a[n - 1]), n - int(a[n - 1])).better()), math.inf))
    return float(np.median(stops))


def test_a_win_rate_of_55_per_cent_is_decided_after_some_hundreds_of_decisive_units() -> None:
    assert 400 <= _median_stop(0.55) <= 1_300
