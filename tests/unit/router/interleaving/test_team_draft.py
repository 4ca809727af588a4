"""Team-draft: captains pick in turn."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.interleaving import NOBODY, STRATEGIES, Strategy, team_draft

ITEMS = "abcdefghij"
rankings = st.lists(st.lists(st.sampled_from(ITEMS), unique=True, max_size=8), min_size=2, max_size=4)


def test_the_papers_example() -> None:
    # Radlinski, Kurup, Joachims 2008: captain A prefers a b c d g h, captain B prefers b e a f g h; three coins, eight drafts.
    drawn = {(team_draft([list("abcdgh"), list("beafgh")], 6, seed)) for seed in range(200)}
    rounds = [("ab", "ba"), ("ce", "ec"), ("df", "fd")]
    lists = {one + two + three for one in rounds[0] for two in rounds[1] for three in rounds[2]}
    assert {"".join(draft.items) for draft in drawn} == lists
    for draft in drawn:
        assert draft.teams == tuple(0 if item in "acd" else 1 for item in draft.items)


def test_multileaving_lets_each_of_three_pick_once_a_round() -> None:
    offered = [list("abcx"), list("bcdx"), list("cdex")]
    drawn = Counter("".join(team_draft(offered, 3, seed).items) for seed in range(1_200))
    # In order of who picks: 012 abc, 021 acb, 102 bac, 120 bca, 201 cab, 210 cba.
    assert set(drawn) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert all(140 < count < 260 for count in drawn.values())


def test_the_common_prefix_is_shown_first_and_credits_nobody() -> None:
    for seed in range(20):
        draft = team_draft([list("abcde"), list("abdec")], 4, seed)
        assert draft.items[:2] == ("a", "b")
        assert draft.teams[:2] == (NOBODY, NOBODY)
        assert sorted(draft.teams[2:]) == [0, 1]


@given(rankings, st.integers(1, 10), st.integers(0, 2**32))
def test_teams_differ_by_at_most_one_pick_and_pick_their_best(offered: list[list[str]], k: int, seed: int) -> None:
    draft = team_draft(offered, k, seed)
    picks = [draft.teams.count(team) for team in range(len(offered))]
    assert max(picks) - min(picks) <= 1
    for position, (item, team) in enumerate(zip(draft.items, draft.teams, strict=True)):
        if team != NOBODY:
            assert item == next(one for one in offered[team] if one not in draft.items[:position])


@pytest.mark.parametrize(
    "strategy", [STRATEGIES["team_draft"], STRATEGIES["probabilistic"]], ids=["team_draft", "probabilistic"]
)
@given(offered=rankings, k1=st.integers(1, 10), more=st.integers(0, 5), seed=st.integers(0, 2**32))
def test_a_longer_draft_begins_with_the_shorter_one(
    strategy: Strategy, offered: list[list[str]], k1: int, more: int, seed: int
) -> None:
    short, long = strategy(offered, k1, seed), strategy(offered, k1 + more, seed)
    assert long.items[:k1] == short.items
    assert long.teams[:k1] == short.teams


@pytest.mark.parametrize(
    "offered", [["abcdef", "fbcade"], ["abc", "cdefgh"], ["abcde", "bcdea", "acebd"], ["abcd", "wxyz", "abyz"]]
)
def test_teams_are_interchangeable_so_no_set_of_clicks_can_favour_one(offered: list[str]) -> None:
    seeds = 6_000
    seen = Counter(team_draft([list(one) for one in offered], 6, seed).teams for seed in range(seeds))
    exchanged = Counter({tuple((team + 1) % len(offered) if team != NOBODY else team for team in one): 0 for one in seen})
    assert set(seen) == set(exchanged)
    for pattern, count in seen.items():
        # Every pattern is as likely: one coin for each round.
        assert abs(count - seeds / len(seen)) < 5.0 * (seeds / len(seen)) ** 0.5, pattern


def test_who_may_run_out_is_no_longer_credited_nor_are_the_others() -> None:
    # One of the first ranking's two items is left for the second round, so only the first is sure to be complete.
    assert all(team_draft([list("ab"), list("cdef")], 4, seed).teams[2:] == (NOBODY, NOBODY) for seed in range(20))
    assert all(set(team_draft([list("abc"), list("bca")], 3, seed).teams) == {0, 1} for seed in range(20))
