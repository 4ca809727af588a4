"""Log records: what is packed comes back, and garbage is an error and no surprise."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.records import (
    Cut,
    Failures,
    Feedback,
    FeedbackBatch,
    LogRecord,
    Outcome,
    OutcomeRecord,
    Outcomes,
    Predictions,
    Rankings,
    Served,
    Shadows,
    Tick,
    Vote,
    pack_log,
    pack_outcomes,
    unpack_log,
    unpack_outcomes,
)

# JSON can carry half of a surrogate pair, and so can every text that a client chooses.
texts = st.text(st.characters(exclude_categories=()), max_size=20)
floats = st.floats(allow_nan=False)
labels = floats | st.integers(-(2**63), 2**63 - 1) | texts
values = floats | texts | st.booleans() | st.binary(max_size=8) | st.none()
rows = st.lists(values, max_size=5)
outputs = st.lists(floats, max_size=3)
names = st.lists(texts, max_size=3).map(tuple)
served = st.builds(Served, texts, st.integers(0, 2**31), floats, names, floats, st.integers(0, 2**31))
feedback = st.builds(Feedback, texts, labels, st.none() | floats, texts, floats, texts)
cuts = st.builds(Cut, texts, floats, texts)
log_records: st.SearchStrategy[LogRecord] = st.one_of(
    st.builds(
        Predictions, floats, st.lists(texts), st.lists(texts), st.lists(rows), st.lists(outputs), st.lists(served),
        st.lists(st.integers(0, 100)), floats, st.none() | st.lists(floats),
    ),
    st.builds(
        Shadows, floats, st.lists(texts), st.lists(texts), st.lists(outputs), st.lists(outputs), texts,
        st.integers(0, 2**31), texts, floats, floats, st.none() | st.lists(st.lists(texts)),
    ),
    st.builds(
        Failures, floats, st.lists(texts), st.lists(texts), texts, st.integers(0, 2**31), names,
        st.integers(0, 2**31), st.sampled_from(["error", "timeout"]), st.booleans(), texts, st.none() | st.lists(floats),
    ),
    st.builds(
        Rankings, floats, texts, texts, st.lists(texts), st.lists(st.integers(-1, 9)), st.integers(0, 99),
        st.integers(0, 2**63), st.lists(texts), st.lists(st.integers(0, 9)), texts, st.integers(0, 9), st.booleans(),
        st.none() | floats,
    ),
    st.builds(FeedbackBatch, floats, st.lists(feedback)),
    cuts,
    st.builds(Tick, floats),
)  # fmt: skip
votes = st.lists(st.builds(Vote, labels, texts, floats), max_size=2).map(tuple)
outcomes = st.builds(
    Outcome, texts, texts, rows, outputs, served, labels, st.sampled_from(["label", "default", "correction"]),
    st.booleans(), floats, floats, floats, texts, floats, st.none() | labels, votes, votes,
)  # fmt: skip
outcome_records: st.SearchStrategy[OutcomeRecord] = cuts | st.builds(Outcomes, st.lists(outcomes, max_size=5))


@given(log_records)
def test_a_log_record_comes_back(record: LogRecord) -> None:
    assert unpack_log(pack_log(record)) == record


@given(outcome_records)
def test_an_outcome_record_comes_back(record: OutcomeRecord) -> None:
    assert unpack_outcomes(pack_outcomes(record)) == record


@given(floats)
def test_a_score_is_logged_as_it_was_served(score: float) -> None:
    record = Shadows(0.0, ["a"], ["u"], [[score]], [[0.0]], "v", 1, "e")
    back: Any = unpack_log(pack_log(record))
    assert back.outputs[0][0].hex() == score.hex()


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x91\xa1z", b"\x92\xa1p\x01", b"\x01", b"\x90", b"\xc0", b"\xff" * 9])
def test_garbage_is_an_error_that_the_join_knows(garbage: bytes) -> None:
    with pytest.raises((ValueError, TypeError, IndexError)):
        unpack_log(garbage)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_such_an_error(payload: bytes) -> None:
    try:
        record = unpack_log(payload)
    except (ValueError, TypeError, IndexError):
        return
    assert isinstance(record, Predictions | Shadows | FeedbackBatch | Cut | Tick)
