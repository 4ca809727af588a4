"""What changes, comes late, or comes from several sources: experiments count it once, and the learner is told of all of it."""

from collections.abc import Sequence
from typing import Any

import pytest

from store.records import Cut, Feedback, FeedbackBatch, Outcome, Tick, Vote
from store.spec import LabelPolicy
from trainer.testing import binary_model, counted, joined, labelled, outcomes, predicted

WINDOW_S = 100.0
ON_LABEL = LabelPolicy(kind="on_label", window_s=WINDOW_S)
AT_WINDOW = LabelPolicy(kind="at_window", window_s=WINDOW_S, default=0)
CORRECTED = LabelPolicy(kind="corrected", window_s=WINDOW_S, default=0)


def _told(found: Sequence[Outcome | Cut]) -> list[tuple[Any, ...]]:
    """Of each outcome the label, what kind it is, whether it is final, what was learned before, and what it replaces."""
    return [(one.label, one.kind, one.final, [vote.label for vote in one.learned], one.replaces) for one in outcomes(found)]


def test_feedback_after_the_window_corrects_for_the_learner_and_not_for_experiments() -> None:
    log = [(0, predicted(0, "a")), (1, labelled(1, "a", 1)), (WINDOW_S + 1, Tick(0))]
    log += [(WINDOW_S + 2, labelled(0, "a", 0)), (WINDOW_S + 3, labelled(0, "a", 0))]
    found, join = joined(binary_model(ON_LABEL), *log)
    assert _told(found) == [(1, "label", True, [], None), (0, "correction", False, [1], None)]
    assert counted(join) == {"predictions": 1, "feedback": 3, "labelled": 1, "late": 1, "repeated": 1}


def test_a_first_label_after_the_window_is_learned_late() -> None:
    log = [(0, predicted(0, "a")), (WINDOW_S + 1, Tick(0)), (WINDOW_S + 2, labelled(0, "a", 1))]
    found, join = joined(binary_model(ON_LABEL), *log)
    assert _told(found) == [(1, "label", False, [], None)]
    assert counted(join) == {"predictions": 1, "feedback": 1, "late": 1}


@pytest.mark.parametrize(("label", "told"), [(1, [(1, "correction", False, [0], None)]), (0, [])])
def test_a_label_after_its_default_corrects_it_where_it_is_another(label: int, told: list[Any]) -> None:
    log = [(0, predicted(0, "a")), (WINDOW_S + 1, Tick(0)), (WINDOW_S + 2, labelled(0, "a", label))]
    found, join = joined(binary_model(AT_WINDOW), *log)
    assert _told(found) == [(0, "default", True, [], None), *told]
    assert counted(join) == {"predictions": 1, "feedback": 1, "defaulted": 1, "late": 1}


def test_corrected_tells_the_default_at_once_and_experiments_what_came_of_it() -> None:
    log = [(0, predicted(0, "a", "b", "c")), (1, labelled(1, "a", 1)), (2, labelled(2, "b", 0)), (WINDOW_S + 1, Tick(0))]
    found, join = joined(binary_model(CORRECTED), *log)
    at_once = (0, "default", False, [], None)
    assert _told(found) == [
        at_once, at_once, at_once,
        (1, "label", True, [0], None), (0, "label", True, [0], None), (0, "default", True, [0], None),
    ]  # fmt: skip
    assert counted(join) == {"predictions": 3, "feedback": 2, "labelled": 2, "defaulted": 1}


def test_corrected_needs_no_default_where_the_label_came_first() -> None:
    found, _ = joined(binary_model(CORRECTED), (0, labelled(0, "a", 1)), (1, predicted(1, "a")))
    assert _told(found) == [(1, "label", True, [], None)]


def test_a_correction_says_which_final_label_it_replaces() -> None:
    log = [(0, predicted(0, "a")), (1, labelled(1, "a", 1)), (2, labelled(2, "a", 0)), (3, labelled(3, "a", 1))]
    found, _ = joined(binary_model(ON_LABEL), *log)
    assert _told(found) == [
        (1, "label", True, [], None), (0, "correction", True, [1], 1), (1, "correction", True, [0], 0),
    ]  # fmt: skip


def test_a_second_source_that_is_taken_at_its_word_says_nothing_new_or_corrects() -> None:
    log = [(0, predicted(0, "a")), (1, labelled(1, "a", 1, "x")), (2, labelled(2, "a", 1, "y")), (3, labelled(3, "a", 0, "z"))]
    found, join = joined(binary_model(ON_LABEL), *log)
    assert _told(found) == [(1, "label", True, [], None), (0, "correction", True, [1], 1)]
    assert counted(join) == {"predictions": 1, "feedback": 3, "labelled": 1, "repeated": 1}


def test_votes_of_doubtful_sources_gather_and_the_likeliest_label_holds() -> None:
    policy = LabelPolicy(window_s=WINDOW_S, sources={"hand": 0.95, "rule": 0.7, "*": 0.6})
    log = [(0, predicted(0, "a"))]
    log += [(n, labelled(n, "a", label, source)) for n, (label, source) in enumerate([(1, "rule"), (1, "crowd"), (0, "hand")])]
    found, _ = joined(binary_model(policy), *log)
    assert _told(found) == [
        (1, "label", True, [], None), (1, "label", False, [1], None), (0, "correction", True, [1, 1], 1),
    ]  # fmt: skip
    assert [vote.source for vote in outcomes(found)[-1].said] == ["rule", "crowd", "hand"]


def test_a_sure_label_puts_an_end_to_votes() -> None:
    policy = LabelPolicy(window_s=WINDOW_S, sources={"rule": 0.7})
    log = [(0, predicted(0, "a")), (1, labelled(1, "a", 1, "rule")), (2, labelled(2, "a", 0)), (3, labelled(3, "a", 0, "rule"))]
    found, join = joined(binary_model(policy), *log)
    assert _told(found) == [(1, "label", True, [], None), (0, "correction", True, [1], 1)]
    assert outcomes(found)[-1].said == (Vote(0),)
    assert join.state.counts.repeated == 1


def test_a_confident_label_counts_more_than_a_doubtful_one() -> None:
    doubtful, sure = (FeedbackBatch(at, [Feedback("a", at % 2, None, "rule", 0.55 + at / 10)]) for at in (1, 2))
    policy = LabelPolicy(window_s=WINDOW_S, sources={"rule": 0.9})
    found, _ = joined(binary_model(policy), (0, predicted(0, "a")), (1, doubtful), (2, sure))
    assert _told(found) == [(1, "label", True, [], None), (0, "correction", True, [1], 1)]
