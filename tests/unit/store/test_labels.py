"""Which label votes amount to, against Bayes' rule worked out by every way it could have come about."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.labels import LabelPolicy, likely_right
from store.records import Vote

SOURCES = {"a": 0.95, "b": 0.8, "c": 0.62, "d": 0.41}


def _posterior(votes: list[Vote], classes: int) -> np.ndarray:
    """P(class | votes) [classes], from no opinion: a source thinks of a class, and then may say another."""

    def chance(what: int, of: int, sure: float) -> float:
        return sure if what == of else (1.0 - sure) / (classes - 1)

    weight = np.zeros(classes)
    for true in range(classes):
        weight[true] = 1.0
        for vote in votes:
            said = int(vote.label)
            thought = [chance(one, true, SOURCES[vote.source]) * chance(said, one, vote.confidence) for one in range(classes)]
            weight[true] *= sum(thought)
    return weight / weight.sum()


def _votes(classes: int) -> st.SearchStrategy[list[Vote]]:
    one = st.builds(Vote, st.integers(0, classes - 1), st.sampled_from(list(SOURCES)), st.sampled_from([0.55, 0.7, 1.0]))
    return st.lists(one, min_size=1, max_size=6)


@given(st.integers(2, 6).flatmap(lambda classes: st.tuples(st.just(classes), _votes(classes))))
def test_the_likeliest_label_of_those_that_were_said_holds(case: tuple[int, list[Vote]]) -> None:
    classes, votes = case
    posterior = _posterior(votes, classes)
    found = LabelPolicy(sources=SOURCES).resolved(votes, classes)
    assert posterior[int(found.label)] == pytest.approx(max(posterior[int(vote.label)] for vote in votes))


def test_of_ten_classes_two_poor_sources_that_agree_outweigh_a_good_one() -> None:
    votes = [Vote(3, "d"), Vote(3, "d"), Vote(7, "b")]
    policy = LabelPolicy(sources=SOURCES)
    assert policy.resolved(votes, 10).label == 3
    assert policy.resolved(votes, 2).label == 7, "of two classes sources like that say the opposite"
    assert _posterior(votes, 10).argmax() == 3


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_how_likely_a_vote_is_right_is_what_its_source_and_its_doubt_make_of_it(classes: int) -> None:
    for accuracy, confidence in product((0.3, 0.9, 1.0), (0.5, 0.8, 1.0)):
        draw = np.random.default_rng(0)
        thought = np.where(draw.random(20_000) < accuracy, 0, draw.integers(1, classes, 20_000))
        shift = np.where(draw.random(20_000) < confidence, 0, draw.integers(1, classes, 20_000))
        assert ((thought + shift) % classes == 0).mean() == pytest.approx(
            likely_right(accuracy, confidence, classes), abs=0.015
        )
