"""Probabilistic interleaving: softmax over ranks."""

from collections import Counter

import numpy as np
import pytest

from router.interleaving import NOBODY, credit, probabilistic
from router.interleaving.probabilistic import TAU


def test_items_are_drawn_by_rank_to_the_power_of_minus_tau() -> None:
    seeds = 8_000
    first = Counter(probabilistic([list("abc"), list("cab")], 1, seed).items[0] for seed in range(seeds))
    weights = np.arange(1, 4) ** -TAU / (np.arange(1, 4) ** -TAU).sum()
    for item, (one, other) in {"a": (0, 1), "b": (1, 2), "c": (2, 0)}.items():
        assert first[item] / seeds == pytest.approx((weights[one] + weights[other]) / 2.0, abs=0.02)


@pytest.mark.parametrize("clickiness", [0.3, 0.9])
def test_a_user_who_clicks_at_random_credits_both_alike_and_lets_both_win_as_often(clickiness: float) -> None:
    draw = np.random.default_rng(1)
    seeds = 4_000
    earned = np.zeros((seeds, 2))
    for seed in range(seeds):
        draft = probabilistic([list("abcdef"), list("bcdefa")], 5, seed)
        clicked = draw.random(5) < clickiness * 0.9 ** np.arange(5)
        earned[seed] = credit(draft, [item for item, whether in zip(draft.items, clicked, strict=True) if whether])
    ahead = np.sign(earned[:, 0] - earned[:, 1])
    assert abs(ahead.sum()) < 4.0 * np.sqrt(np.abs(ahead).sum())
    assert abs(earned.sum(axis=0) @ [1, -1]) < 4.0 * np.sqrt(earned.sum())


def test_at_each_position_it_credits_both_as_often_and_less_the_more_alike_they_are() -> None:
    for offered, least in (((list("abcdef"), list("fedcba")), 0.8), ((list("abcdef"), list("abcdfe")), 0.0)):
        teams = np.array([probabilistic(offered, 4, seed).teams for seed in range(4_000)])
        shares = np.array([(teams == team).mean(axis=0) for team in (0, 1)])
        assert np.allclose(*shares, atol=0.04)
        assert shares.sum(axis=0)[0] == pytest.approx(least, abs=0.2)


def test_what_comes_after_a_ranking_may_have_run_out_is_served_in_order_and_credits_nobody() -> None:
    for seed in range(50):
        draft = probabilistic([list("ab"), list("cdefg")], 7, seed)
        assert draft.teams[2:] == (NOBODY,) * 5
        assert set(draft.teams[:2]) <= {0, 1}
        rest = [item for item in draft.items[2:] if item in "cdefg"]
        assert rest == sorted(rest)
