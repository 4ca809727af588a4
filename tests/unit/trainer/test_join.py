"""The label join: each outcome once, everything else under its own counter, and a crash changes nothing."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.protocols import Entry, position_key
from store.records import Cut, Label, LogRecord, Outcome, Tick, Vote
from store.spec import LabelPolicy, ModelRecord
from trainer.join import HOLD_S, SKEW_QUORUM, JoinState, LabelJoin
from trainer.testing import DAY_1, binary_model, counted, flat, joined, labelled, outcomes, predicted, written

WINDOW_S = 100.0
ON_LABEL = LabelPolicy(kind="on_label", window_s=WINDOW_S)
AT_WINDOW = LabelPolicy(kind="at_window", window_s=WINDOW_S, default=0)


def test_a_label_makes_an_outcome_when_it_comes() -> None:
    found, join = joined(binary_model(ON_LABEL), (0, predicted(0, "a", "b")), (1, labelled(1, "b", 1)))
    [outcome] = outcomes(found)
    assert (outcome.id, outcome.unit, outcome.label, outcome.kind, outcome.final) == ("b", "unit of b", 1, "label", True)
    assert (outcome.predicted_at, outcome.labelled_at, outcome.received_at) == (0, 1, 1)
    assert counted(join) == {"predictions": 2, "feedback": 1, "labelled": 1}


def test_without_a_label_on_label_says_nothing() -> None:
    found, join = joined(binary_model(ON_LABEL), (0, predicted(0, "a")), (3 * WINDOW_S, Tick(0)))
    assert found == []
    assert counted(join) == {"predictions": 1}


def test_at_window_waits_for_the_end_of_the_window() -> None:
    log = [(0.0, predicted(0, "a")), (1.0, labelled(1, "a", 1)), (WINDOW_S, Tick(0)), (WINDOW_S + 1, Tick(0))]
    entries = written(log)
    join = LabelJoin(binary_model(AT_WINDOW))
    assert join.feed(entries[:3]) == []
    [outcome] = outcomes(flat(join.feed(entries[3:])))
    assert (outcome.label, outcome.kind, outcome.received_at) == (1, "label", 1)


def test_at_window_takes_the_default_when_no_label_came() -> None:
    found, join = joined(binary_model(AT_WINDOW), (0, predicted(0, "a")), (WINDOW_S + 1, Tick(0)))
    [outcome] = outcomes(found)
    assert (outcome.label, outcome.kind) == (0, "default")
    assert counted(join) == {"predictions": 1, "defaulted": 1}


def test_at_window_takes_the_last_of_several_labels() -> None:
    log = [(0, predicted(0, "a")), (1, labelled(1, "a", 0)), (2, labelled(2, "a", 1)), (WINDOW_S + 1, Tick(0))]
    found, join = joined(binary_model(AT_WINDOW), *log)
    assert [outcome.label for outcome in outcomes(found)] == [1]
    assert counted(join) == {"predictions": 1, "feedback": 2, "corrected": 1, "labelled": 1}


@pytest.mark.parametrize("policy", [ON_LABEL, AT_WINDOW], ids=["on_label", "at_window"])
def test_feedback_may_overtake_its_prediction(policy: LabelPolicy) -> None:
    log = [(0, labelled(0, "a", 1)), (HOLD_S - 1, predicted(HOLD_S - 1, "a")), (3 * WINDOW_S, Tick(0))]
    found, join = joined(binary_model(policy), *log)
    assert [(outcome.label, outcome.kind) for outcome in outcomes(found)] == [(1, "label")]
    assert counted(join) == {"predictions": 1, "feedback": 1, "labelled": 1}


def test_feedback_that_waited_in_vain_is_unknown() -> None:
    log = [(0, labelled(0, "a")), (1, labelled(1, "a")), (HOLD_S + 2, Tick(0)), (HOLD_S + 3, predicted(0, "a"))]
    found, join = joined(binary_model(ON_LABEL), *log)
    assert found == []
    assert counted(join) == {"predictions": 1, "feedback": 2, "unknown": 2}


def test_the_same_label_twice_is_repeated_and_learned_once() -> None:
    log = [(0, predicted(0, "a")), (1, labelled(1, "a", 1)), (2, labelled(2, "a", 1))]
    found, join = joined(binary_model(ON_LABEL), *log)
    assert len(outcomes(found)) == 1
    assert counted(join) == {"predictions": 1, "feedback": 2, "labelled": 1, "repeated": 1}


def test_another_label_is_a_correction() -> None:
    log = [(0, predicted(0, "a")), (1, labelled(1, "a", 1)), (2, labelled(2, "a", 0))]
    found, join = joined(binary_model(ON_LABEL), *log)
    assert [(outcome.label, outcome.kind) for outcome in outcomes(found)] == [(1, "label"), (0, "correction")]
    assert counted(join) == {"predictions": 1, "feedback": 2, "labelled": 1, "corrected": 1}


def test_an_old_id_of_ours_is_too_late_and_not_unknown() -> None:
    old = f"m:{int((DAY_1 - 3 * WINDOW_S) * 1000):x}.AAAAAAAAAAAA:0"
    young = f"m:{int(DAY_1 * 1000):x}.AAAAAAAAAAAA:0"
    log = [(0, labelled(0, old)), (1, labelled(0, young)), (HOLD_S + 2, Tick(0))]
    _, join = joined(binary_model(ON_LABEL), *log)
    assert counted(join) == {"feedback": 2, "too_late": 1, "unknown": 1}


def test_an_id_in_use_is_not_predicted_again() -> None:
    log = [(0, predicted(0, "a")), (1, predicted(1, "a", "a", "b")), (2, labelled(2, "a"))]
    found, join = joined(binary_model(ON_LABEL), *log)
    assert [outcome.predicted_at for outcome in outcomes(found)] == [0]
    assert counted(join) == {"predictions": 4, "duplicate_ids": 2, "feedback": 1, "labelled": 1}


def test_an_unreadable_entry_is_skipped_and_counted() -> None:
    entries = written([(0, predicted(0, "a")), (1, Tick(0)), (2, labelled(2, "a"))])
    for garbage in (b"", b"\xc1", b"\x91\xa1z", b"\x92\xa1p\x01", b"\x01", b"\x80"):
        join = LabelJoin(binary_model(ON_LABEL))
        found = join.feed([entries[0], Entry(entries[1].position, garbage), entries[2]])
        assert len(outcomes(flat(found))) == 1, garbage
        assert join.state.counts.unreadable == 1, garbage


def test_outcomes_are_cut_by_count() -> None:
    log = [(0, predicted(0, *"abcde")), *((1, labelled(1, id_)) for id_ in "abcde")]
    found, join = joined(binary_model(ON_LABEL, every=2), *log)
    assert [one.reason if isinstance(one, Cut) else one.id for one in found] == [
        "a", "b", "every 2 outcomes", "c", "d", "every 2 outcomes", "e",
    ]  # fmt: skip
    assert join.state.since_cut == 1


def test_a_cut_by_hand_says_how_far_the_log_was_read() -> None:
    entries = written([(0, predicted(0, "a")), (1, labelled(1, "a")), (2, Cut("hand", 2.0))])
    found = flat(LabelJoin(binary_model(ON_LABEL)).feed(entries))
    assert found[-1] == Cut("hand", 2.0, entries[-1].position)


def test_one_hostile_event_time_closes_no_window() -> None:
    model = binary_model(AT_WINDOW, clock="event")
    hostile = [(float(n), predicted(0, f"h{n}", event_times=[9e9])) for n in range(SKEW_QUORUM - 1)]
    found, join = joined(model, (0, predicted(0, "a", event_times=[1000.0])), *hostile)
    assert found == []
    assert join.state.clock == 1000.0
    assert join.state.counts.skewed == SKEW_QUORUM - 1


def test_an_honest_event_time_between_hostile_ones_starts_their_count_again() -> None:
    model = binary_model(AT_WINDOW, clock="event")
    hostile = [(1.0, predicted(0, f"h{n}", event_times=[9e9])) for n in range(2 * SKEW_QUORUM - 2)]
    hostile.insert(SKEW_QUORUM - 1, (1.0, predicted(0, "b", event_times=[1001.0])))
    found, join = joined(model, (0, predicted(0, "a", event_times=[1000.0])), *hostile)
    assert found == []
    assert join.state.clock == 1001.0


def test_a_hundred_entries_that_agree_move_the_event_clock() -> None:
    model = binary_model(AT_WINDOW, clock="event")
    gap = [(1.0, predicted(0, f"g{n}", event_times=[9e6])) for n in range(SKEW_QUORUM)]
    found, join = joined(model, (0, predicted(0, "a", event_times=[1000.0])), *gap)
    assert outcomes(found)[0].id == "a"
    assert join.state.clock == 9e6


def test_event_windows_close_by_event_time_alone() -> None:
    model = binary_model(AT_WINDOW, clock="event")
    first, nearly = predicted(0, "a", event_times=[1000.0]), predicted(0, "b", event_times=[1000.0 + WINDOW_S])
    after = predicted(0, "c", event_times=[1000.0 + WINDOW_S + 1])
    found, _ = joined(model, (0, first), (10 * WINDOW_S, nearly))
    assert found == []
    found, _ = joined(model, (0, first), (0, nearly), (0, after))
    assert [(outcome.id, outcome.predicted_at) for outcome in outcomes(found)] == [("a", 1000.0)]


# A log of few ids with times around every limit, so that windows, holds, memory and skews overlap in all ways.
IDS = st.sampled_from(["a", "b", "c", "d", f"m:{int(DAY_1 * 1000):x}.AAAAAAAAAAAA:0"])
WAITS = st.sampled_from([0.0, 0.0, 0.4, 1.0, 7.0, 19.0, 31.0, 59.5, 61.0, 130.0, 300.0])
EVENT_STEPS = st.sampled_from([0.0, 1.0, 6.0, 11.0, 25.0, -30.0, 5000.0])


@st.composite
def _logs(draw: st.DrawFn, event_clock: bool) -> list[Entry]:
    arrival, event_time = 0.0, 1000.0
    records: list[tuple[float, LogRecord]] = []
    for _ in range(draw(st.integers(1, 40))):
        arrival += draw(WAITS)
        match draw(st.sampled_from("pppffffct")):
            case "p":
                ids = draw(st.lists(IDS, min_size=1, max_size=3))
                times = [event_time + draw(EVENT_STEPS) for _ in ids] if event_clock else None
                event_time = max([event_time, *(at for at in times or [] if at < event_time + 1000)])
                records.append((arrival, predicted(DAY_1 + arrival, *ids, event_times=times)))
            case "f":
                feedback = labelled(DAY_1 + arrival, draw(IDS), draw(st.integers(0, 1)), draw(st.sampled_from("xy")))
                records.append((arrival, feedback))
            case "c":
                records.append((arrival, Cut("hand", arrival)))
            case _:
                records.append((arrival, Tick(arrival)))
    return written(records)


def _crashed(model: ModelRecord, entries: list[Entry], at: int) -> tuple[list[Any], LabelJoin]:
    """Feed a prefix, lose the join's memory, rebuild it from what is stored with its position, and feed the rest."""
    first = LabelJoin(model)
    out = flat(first.feed(entries[:at]))
    state = JoinState.unpacked(first.state.packed())
    second = LabelJoin(model, state)
    low = state.low_water
    with second.rebuilding():
        second.feed([e for e in entries[:at] if low and position_key(e.position) >= position_key(low)])
    assert second.state == state
    return out + flat(second.feed(entries[at:])), second


@pytest.mark.parametrize("clock", ["log", "event"])
@pytest.mark.parametrize("policy", ["on_label", "at_window", "corrected"])
@settings(max_examples=200, deadline=None)
@given(
    drawn=st.data(),
    window_s=st.sampled_from([5.0, 20.0, 80.0]),
    sources=st.sampled_from([{}, {"x": 0.9}, {"x": 0.9, "*": 0.6}]),
)
def test_a_crash_anywhere_changes_nothing(
    clock: str,
    policy: Literal["on_label", "at_window", "corrected"],
    drawn: st.DataObject,
    window_s: float,
    sources: dict[str, float],
) -> None:
    labels = LabelPolicy(kind=policy, window_s=window_s, default=0, sources=sources)
    model = binary_model(labels, clock=clock, every=3, max_skew_s=60.0)
    entries = drawn.draw(_logs(clock == "event"))
    whole = LabelJoin(model)
    expected = flat(whole.feed(entries))
    found, rebuilt = _crashed(model, entries, drawn.draw(st.integers(0, len(entries))))
    assert found == expected
    if clock == "log":  # by event times two uses of an id may look the same
        _check_accounts(expected)
    assert rebuilt.state == whole.state


def _check_accounts(found: Sequence[Outcome | Cut]) -> None:
    """What each outcome says of what went before is what went before."""
    learned: dict[tuple[str, float], tuple[Vote, ...]] = {}
    final: dict[tuple[str, float], Label] = {}
    for one in outcomes(found):
        use = one.id, one.predicted_at  # an id may be used again
        assert one.learned == learned.get(use, ())
        learned[use] = one.said
        if one.final:
            assert one.replaces == final.get(use)
            final[use] = one.label
