"""Optimised interleaving: what the linear programme's solution is held to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.interleaving import NOBODY, optimised, programme
from router.interleaving.optimised import LISTS

ITEMS = "abcdefghij"
rankings = st.lists(st.lists(st.sampled_from(ITEMS), unique=True, max_size=8), min_size=2, max_size=4)


@settings(max_examples=60, deadline=None)
@given(rankings, st.integers(1, 10))
def test_each_position_credits_all_rankers_alike(offered: list[list[str]], k: int) -> None:
    of = programme(offered, k)
    assert of.probabilities.sum() == pytest.approx(1.0)
    assert np.all((of.kept >= 0.0) & (of.kept <= 1.0))
    credited = sum(probability * favours * of.kept for probability, favours in zip(of.probabilities, of.favours, strict=True))
    assert np.allclose(credited, of.credited, atol=1e-12)
    assert np.all(np.ptp(np.asarray(credited), axis=1) < 1e-9 if np.size(credited) else True)


@settings(max_examples=40, deadline=None)
@given(rankings, st.integers(1, 8))
def test_every_list_grows_by_some_rankers_best_item_left(offered: list[list[str]], k: int) -> None:
    lists = programme(offered, k).lists
    assert len(set(lists)) == len(lists) <= LISTS
    for one in lists:
        for position, item in enumerate(one):
            left = ([other for other in ranking if other not in one[:position]] for ranking in offered)
            assert item in {best[0] for best in left if best}


def test_a_swap_is_solved_by_both_orders_in_turn() -> None:
    of = programme([list("abc"), list("acb")], 3)
    assert dict(zip(of.lists, of.probabilities.tolist(), strict=True)) == pytest.approx({tuple("abc"): 0.5, tuple("acb"): 0.5})
    # a credits nobody, b the first, c the second ranker: half of the time each, at both positions.
    assert np.allclose(of.credited, [[0.0, 0.0], [0.5, 0.5], [0.5, 0.5]])


def test_where_no_mix_is_fair_credit_is_withheld() -> None:
    # The second ranking moves a down from the first place to the last: all other items speak for it, wherever they are shown.
    of = programme([list("abcd"), list("bcda")], 4)
    assert np.allclose(of.credited[:2], 0.5)
    assert np.allclose(of.credited[2:], 0.0)
    assert {of.draw(seed).teams[2:] for seed in range(20)} == {(NOBODY, NOBODY)}


def test_it_draws_as_it_says() -> None:
    draw = np.random.default_rng(2)
    offered = [["".join(ITEMS[item]) for item in draw.permutation(10)] for _ in range(3)]
    of = programme(offered, 6)
    drafts = [of.draw(seed) for seed in range(4_000)]
    assert drafts[17] == optimised(offered, 6, 17)
    for one, probability in zip(of.lists, of.probabilities.tolist(), strict=True):
        shown = sum(draft.items == one for draft in drafts) / len(drafts)
        assert shown == pytest.approx(probability, abs=4.0 * (probability / len(drafts)) ** 0.5 + 1e-3)
    teams = np.array([draft.teams for draft in drafts])
    for ranker in range(3):
        assert np.allclose((teams == ranker).mean(axis=0), of.credited[:, ranker], atol=0.03)


def test_a_cut_sample_of_lists_costs_little_credit_and_no_fairness() -> None:
    draw = np.random.default_rng(3)
    offered = [[str(item) for item in draw.permutation(30)] for _ in range(2)]
    of = programme(offered, 10)  # 1,024 lists, less those that coincide
    assert np.all(np.ptp(of.credited, axis=1) < 1e-12)
    assert of.credited.sum(axis=1).mean() > 0.9


def test_two_rankers_win_as_often_however_many_clicks_there_are() -> None:
    draw = np.random.default_rng(4)
    seeds = 1_000
    for _ in range(5):
        of = programme([[str(item) for item in draw.permutation(12)] for _ in range(2)], 6)
        teams = np.array([of.draw(seed).teams for seed in range(seeds)])
        for clicked in draw.random((20, 6)) < 0.5:
            ahead = np.sign(((teams == 0) * clicked).sum(axis=1) - ((teams == 1) * clicked).sum(axis=1))
            assert abs(ahead.mean()) < 0.02 + 4.0 / seeds**0.5
