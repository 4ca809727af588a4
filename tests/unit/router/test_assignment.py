"""Units to arms: uniform, independent, the same everywhere; and as few as possible move when shares change."""

import subprocess
import sys
from itertools import pairwise
from typing import Any, cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from router.assignment import SLOTS, allocate, slot, slots
from store.policy import Slice

UNITS = 100_000
# Seeds are fixed, so a test that passes once passes always; at one in a million, no honest hash fails.
SIGNIFICANCE = 1e-6

names = st.sampled_from(["a", "b", "c", "d", "e"])


@st.composite
def splits(draw: st.DrawFn, arms: st.SearchStrategy[str] = names) -> dict[str, float]:
    """Shares of one to five arms that sum to at most 1."""
    chosen = draw(st.lists(arms, min_size=1, max_size=5, unique=True))
    weights = [draw(st.integers(0, 1000)) for _ in chosen]
    total = sum(weights) + draw(st.sampled_from([0, 0, 137]))
    return {arm: weight / total if total else 0.0 for arm, weight in zip(chosen, weights, strict=True)}


def _held(slices: tuple[Slice, ...]) -> dict[str, int]:
    held: dict[str, int] = {}
    for piece in slices:
        held[piece.owner] = held.get(piece.owner, 0) + piece.end - piece.start
    return held


def _owners(slices: tuple[Slice, ...], edges: list[int]) -> list[str]:
    """Return the owner of each stretch between consecutive edges; '' where nobody owns it."""
    owners: list[str] = []
    for start in edges[:-1]:
        owners.append(next((piece.owner for piece in slices if piece.start <= start < piece.end), ""))
    return owners


def _moves(before: tuple[Slice, ...], after: tuple[Slice, ...]) -> list[tuple[str, str, int]]:
    """Return (former owner, present owner, slots) wherever the owner changed."""
    edges = sorted({0, SLOTS, *(edge for piece in before + after for edge in (piece.start, piece.end))})
    owners = zip(_owners(before, edges), _owners(after, edges), edges[:-1], edges[1:], strict=True)
    return [(old, new, end - start) for old, new, start, end in owners if old != new]


def test_units_spread_evenly_over_slots() -> None:
    place = slots("salt")
    counts, _ = np.histogram([place(b"unit-%d" % number) for number in range(10 * UNITS)], bins=1000, range=(0, SLOTS))
    assert stats.chisquare(counts).pvalue > SIGNIFICANCE


def test_salts_assign_independently() -> None:
    units = [f"unit-{number}" for number in range(UNITS)]
    one = np.array([slot("experiment one", unit) for unit in units]) * 10 // SLOTS
    two = np.array([slot("experiment two", unit) for unit in units]) * 10 // SLOTS
    table, _, _ = np.histogram2d(one, two, bins=10)
    assert float(cast(Any, stats.chi2_contingency(table)).pvalue) > SIGNIFICANCE


def test_units_that_are_alike_are_not_assigned_alike() -> None:
    slots = np.array([slot("salt", str(number)) for number in range(UNITS)]) / SLOTS
    correlation = float(np.corrcoef(slots[:-1], slots[1:])[0, 1])
    assert abs(correlation) < 6 / UNITS**0.5


def test_every_process_assigns_the_same() -> None:
    asked = [("salt", "unit"), ("", ""), ("ä", "日本"), ("long " * 20, "u" * 300), ("s", "\udcff")]
    script = f"from router.assignment import slot; print([slot(*pair) for pair in {asked!r}])"
    answers = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert answers == {str([slot(*pair) for pair in asked])}


@given(st.text(), st.text(st.characters(exclude_categories=())))
def test_any_text_has_a_slot(salt: str, unit: str) -> None:
    assert 0 <= slot(salt, unit) < SLOTS


@given(splits(), splits())
def test_slices_hold_the_shares_and_never_overlap(first: dict[str, float], second: dict[str, float]) -> None:
    slices: tuple[Slice, ...] = ()
    for shares in (first, second):
        slices = allocate(slices, shares)
        held = _held(slices)
        assert all(abs(held.get(arm, 0) / SLOTS - share) <= (len(shares) + 1) / SLOTS for arm, share in shares.items())
        assert set(held) <= set(shares)
        assert all(left.end <= right.start for left, right in pairwise(slices))
        assert all(0 <= piece.start < piece.end <= SLOTS for piece in slices)


@given(splits(), splits())
def test_as_few_slots_move_as_can_be(first: dict[str, float], second: dict[str, float]) -> None:
    before = allocate([], first)
    after = allocate(before, second)
    old, new = _held(before), _held(after)
    # Whoever grows must get slots from others, and nobody else may lose or get any.
    least = sum(max(0, new.get(arm, 0) - old.get(arm, 0)) for arm in new)
    assert sum(count for _, owner, count in _moves(before, after) if owner) == least


@given(splits(), splits(), splits())
def test_an_arm_that_grows_loses_nobody_and_one_that_shrinks_wins_nobody(
    first: dict[str, float], second: dict[str, float], third: dict[str, float]
) -> None:
    slices = allocate(allocate([], first), second)
    after = allocate(slices, third)
    old, new = _held(slices), _held(after)
    for loser, winner, _ in _moves(slices, after):
        assert not loser or new.get(loser, 0) < old[loser]
        assert not winner or new[winner] > old.get(winner, 0)


@given(splits())
def test_the_same_shares_again_move_nobody(shares: dict[str, float]) -> None:
    slices = allocate([], shares)
    assert allocate(slices, shares) == slices


@settings(max_examples=30)
@given(st.lists(st.integers(1, 99), min_size=2, max_size=8).map(sorted))
def test_a_unit_that_reached_a_growing_arm_stays(steps: list[int]) -> None:
    slices: tuple[Slice, ...] = ()
    reached: set[int] = set()
    slots = [slot("salt", f"unit-{number}") for number in range(500)]
    for percent in steps:
        slices = allocate(slices, {"stable": 1 - percent / 100, "candidate": percent / 100})
        candidate = [piece for piece in slices if piece.owner == "candidate"]
        now = {at for at in slots if any(piece.start <= at < piece.end for piece in candidate)}
        assert reached <= now
        reached = now


@given(st.integers(2, 50))
def test_equal_shares_that_do_not_divide_still_fit(arms: int) -> None:
    held = _held(allocate([], {f"arm {number}": 1 / arms for number in range(arms)}))
    assert sum(held.values()) <= SLOTS
    assert all(abs(count - SLOTS / arms) <= arms for count in held.values())
