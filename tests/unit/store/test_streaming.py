"""Streaming features: what may be declared, and state that says what all events together say."""

import math
import struct
import sys
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from store.errors import SpecError
from store.records import Outcome, OutcomeKind, Predictions, Served, Vote
from store.schema import Row
from store.spec import LabelPolicy, ModelSpec
from store.streaming import BUCKETS, Aggregate
from store.streams import Streams, Window

HOUR = 3600.0
SERVED = Served("main", 1, 1.0)


class Features(BaseModel):
    place: str
    cheap: bool = False
    price: float | None = None


def spec(*aggregates: Aggregate, clock: Literal["log", "event"] = "event", **more: Any) -> ModelSpec:
    labels = LabelPolicy(window_s=10 * HOUR)
    return ModelSpec("m", Features, clock=clock, labels=labels, streaming=aggregates, **more)


def outcome(id_: str, place: str, at: float, label: float | str, kind: OutcomeKind = "label") -> Outcome:
    row: Row = [place, False, None]
    learned = (Vote("before"),) if kind == "correction" else ()
    return Outcome(id_, "u", row, [0.5], SERVED, label, kind, True, at - HOUR, at, at, learned=learned)


def predictions(place: str, at: float, score: float = 0.5, price: float | None = None) -> Predictions:
    return Predictions(at, ["p"], ["u"], [[place, False, price]], [[score]], [SERVED], [0], 0.0, [at])


def value(streams: Streams, place: str, at: float, unit: str = "u") -> Any:
    row: list[Any] = [place, False, None]
    streams.fill([row], [unit], [at])
    return row[3]


def decayed(by: tuple[str, ...] = ("place",), **more: Any) -> Aggregate:
    return Aggregate.model_validate({"name": "late", "by": by, "half_life_s": HOUR} | more)


@pytest.mark.parametrize(
    ("aggregate", "right"),
    [
        (decayed(by=("plaec",)), "place, cheap, unit"),
        (decayed(by=("price",)), "place, cheap, unit"),
        (decayed(by=("place", "place")), "twice"),
        (decayed(of="weight"), "label, score, cheap, price"),
        (decayed(of="place"), "label, score, cheap, price"),
        (decayed(of="label:late"), "label, score, cheap, price"),
        (decayed(of="score", kind="rate"), "'label' (outcomes) or 'predictions'"),
        (decayed(name="price"), "another name"),
    ],
)
def test_what_a_model_does_not_have_is_refused_and_what_would_be_right_is_said(aggregate: Aggregate, right: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(aggregate)
    assert right in str(refused.value)


def test_two_of_a_name_are_refused() -> None:
    with pytest.raises(SpecError, match="another name"):
        spec(decayed(), decayed(by=()))


def test_classes_are_counted_one_at_a_time() -> None:
    with pytest.raises(SpecError, match="label:a, label:b"):
        spec(decayed(), objective="multiclass", classes=("a", "b"))
    streams = Streams(spec(decayed(of="label:a"), objective="multiclass", classes=("a", "b")).record)
    streams.outcomes([outcome("1", "x", 0.0, "a"), outcome("2", "x", 0.0, "b"), outcome("3", "x", 0.0, "b")])
    assert value(streams, "x", 0.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize("given", [{}, {"window_s": 1.0, "half_life_s": 1.0}, {"window_s": 0.0}, {"half_life_s": math.inf}])
def test_one_horizon_is_given(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Aggregate(name="late", **given)  # pyright: ignore[reportArgumentType]


def test_what_streams_is_a_feature_that_no_request_sends_and_another_declaration() -> None:
    with_it, without = spec(decayed()).record, spec().record
    assert [field.name for field in with_it.features.fields] == ["place", "cheap", "price", "late"]
    assert [field.name for field in with_it.features.asked] == ["place", "cheap", "price"]
    assert len({with_it.digest, without.digest, spec(decayed(half_life_s=7.0)).record.digest}) == 3


PLACES = st.sampled_from(["x", "y", "z"])
EVENTS = st.lists(st.tuples(PLACES, st.floats(0.0, 50 * HOUR), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40)


@given(EVENTS, st.floats(0.0, 100 * HOUR))
def test_a_decayed_mean_is_that_of_all_events_each_with_its_weight(events: list[tuple[str, float, float]], at: float) -> None:
    streams = Streams(spec(decayed(prior=3.0)).record)
    streams.outcomes([outcome(str(i), place, time, label) for i, (place, time, label) in enumerate(events)])

    def weighed(chosen: list[tuple[str, float, float]], drawn_to: float) -> float:
        now = max([at, *(time for _, time, _ in chosen)])
        weights = [2.0 ** ((time - now) / HOUR) for _, time, _ in chosen]
        total = sum(weight * label for weight, (_, _, label) in zip(weights, chosen, strict=True))
        return (total + 3.0 * drawn_to) / (sum(weights) + 3.0)

    over_all = weighed(events, sum(label for *_, label in events) / len(events))
    expected = weighed([event for event in events if event[0] == "x"], over_all)
    assert value(streams, "x", at) == pytest.approx(expected, rel=1e-9)


@given(EVENTS, st.floats(0.0, 100 * HOUR))
def test_a_window_counts_what_its_buckets_hold(events: list[tuple[str, float, float]], later: float) -> None:
    aggregate = Aggregate(name="late", by=("place",), kind="rate", of="predictions", window_s=10 * HOUR)
    streams = Streams(spec(aggregate).record)
    for place, time, _ in events:
        streams.predictions(predictions(place, time), 1e9)
    at = max([time for place, time, _ in events if place == "x"], default=0.0) + later
    width = 10 * HOUR / BUCKETS
    expected = sum(place == "x" and math.floor(time / width) > math.floor(at / width) - BUCKETS for place, time, _ in events)
    assert value(streams, "x", at) == pytest.approx(expected / 10.0)


@given(EVENTS, st.integers(0, 40))
def test_state_that_was_kept_and_read_on_from_is_that_of_reading_all_bit_for_bit(
    events: list[tuple[str, float, float]], cut: int
) -> None:
    aggregates = (decayed(keys=2), decayed(name="b", by=("place", "unit")), Aggregate(name="w", window_s=HOUR))
    record = spec(*aggregates).record
    every = [outcome(str(i), place, time, label) for i, (place, time, label) in enumerate(events)]
    every += [outcome(one.id, str(one.row[0]), one.labelled_at, 1 - float(one.label), "correction") for one in every[::3]]
    whole, first, second = Streams(record), Streams(record), Streams(record)
    whole.outcomes(every)
    first.outcomes(every[:cut])
    second.restore(first.packed())
    second.outcomes(every[cut:])
    assert second.packed() == whole.packed()


def test_a_correction_leaves_what_the_right_label_would_have_left() -> None:
    wrong, right = Streams(spec(decayed()).record), Streams(spec(decayed()).record)
    between = [outcome("b", "x", 3 * HOUR, 1.0), outcome("c", "y", 4 * HOUR, 0.0)]
    wrong.outcomes([outcome("a", "x", HOUR, 1.0), *between, outcome("a", "x", 9 * HOUR, 0.0, "correction")])
    right.outcomes([outcome("a", "x", HOUR, 0.0), *between])
    assert value(wrong, "x", 5 * HOUR) == pytest.approx(value(right, "x", 5 * HOUR), rel=1e-12)


def test_a_correction_of_what_is_not_remembered_changes_nothing() -> None:
    streams = Streams(spec(decayed()).record)
    before = streams.packed()
    streams.outcomes([outcome("a", "x", HOUR, 0.0, "correction")])
    assert streams.packed() == before


@pytest.mark.parametrize("horizon", [{"half_life_s": HOUR}, {"half_life_s": None, "window_s": HOUR}])
def test_a_correction_of_a_key_that_is_no_longer_kept_says_nothing_of_it(horizon: dict[str, Any]) -> None:
    streams = Streams(spec(decayed(keys=2, **horizon)).record)
    streams.outcomes([outcome("first", "a", 0.0, 1)])
    streams.outcomes([outcome(f"other {number}", place, 1.0, 1) for number, place in enumerate("bc")])
    of_all = value(streams, "a", 2.0)
    streams.outcomes([outcome("first", "a", 3.0, 0, kind="correction")])
    assert value(streams, "a", 4.0) == pytest.approx(of_all - 1 / 3, abs=1e-3)  # a key never seen says what holds for all
    assert value(streams, "b", 4.0) > value(streams, "a", 4.0)


def test_a_horizon_that_no_clock_can_tell_is_refused() -> None:
    for horizon in ("window_s", "half_life_s"):
        with pytest.raises(ValidationError, match=r"greater than or equal to 0\.001"):
            Aggregate.model_validate({"name": "late", horizon: 1e-300})


def test_a_key_never_seen_says_what_holds_for_all_and_nothing_is_missing() -> None:
    streams = Streams(spec(decayed()).record)
    assert value(streams, "x", 0.0) is None
    streams.outcomes([outcome("1", "y", 0.0, 1.0), outcome("2", "y", 0.0, 0.0)])
    assert value(streams, "x", 0.0) == 0.5


def test_after_years_without_an_event_a_mean_is_that_of_all_time() -> None:
    streams = Streams(spec(decayed()).record)
    streams.outcomes([outcome("1", "x", 0.0, 1.0), outcome("2", "y", 0.0, 0.0)])
    assert value(streams, "x", 1e9) == 0.5
    streams.outcomes([outcome("3", "x", 1e9, 1.0)])
    assert value(streams, "x", 1e9) > 0.65


def test_one_wrong_time_does_not_make_all_others_look_old() -> None:
    streams = Streams(spec(decayed(prior=0.01)).record)
    wrong = Outcome("1", "u", ["x", False, None], [0.5], SERVED, 1.0, "label", True, 0.0, 1e11, 0.0)
    streams.outcomes([wrong, outcome("2", "x", 40 * HOUR, 0.0)])
    assert value(streams, "x", 40 * HOUR) < 0.02


def test_scores_and_numbers_are_averaged_where_they_are_there() -> None:
    streams = Streams(spec(decayed(of="price"), decayed(name="score_of", of="score")).record)
    streams.predictions(predictions("x", 0.0, 0.2, None), 0.0)
    streams.predictions(predictions("x", 0.0, 0.4, 7.0), 0.0)
    row: list[Any] = ["x", False, None]
    streams.fill([row], ["u"], [0.0])
    assert row[3:] == pytest.approx([7.0, 0.3])


def test_a_key_costs_little_in_one_bucket_or_in_all() -> None:
    window = Window(HOUR)
    part = window.added((), 0.0, 1.0, 1.0)
    assert sys.getsizeof(part) < 100
    for bucket in range(10 * BUCKETS):
        part = window.added(part, bucket * HOUR / BUCKETS, 1.0, 1.0)
    assert sys.getsizeof(part) < 600
    assert window.read(part, 10 * HOUR - 1.0) == (BUCKETS, BUCKETS)


@given(EVENTS)
def test_a_window_goes_on_from_what_was_kept_as_tuples(events: list[tuple[str, float, float]]) -> None:
    window = Window(5 * HOUR)
    part: bytes | tuple[Any, ...] = ()
    for _, time, label in events:
        part = window.added(part, time, label, 1.0)
    assert isinstance(part, bytes)
    as_before = tuple(struct.iter_unpack("<qdd", part))
    now = max(time for _, time, _ in events)
    assert window.read(as_before, now) == window.read(part, now)
    assert window.added(as_before, now, 1.0, 1.0) == window.added(part, now, 1.0, 1.0)


def test_the_keys_that_waited_the_longest_go_first() -> None:
    streams = Streams(spec(decayed(of="predictions", kind="count", keys=2)).record)
    for place in ("a", "b", "a", "c"):
        streams.predictions(predictions(place, 0.0), 0.0)
    assert [value(streams, place, 0.0) for place in "abc"] == [2.0, 0.0, 1.0]


@pytest.mark.simulation
def test_a_million_hostile_keys_are_kept_in_bounds() -> None:
    streams = Streams(spec(decayed(of="predictions", kind="count", keys=1000)).record)
    for number in range(1_000_000):
        streams.predictions(predictions(f"{number}" + "x" * 100, 0.0), 0.0)
    assert len(streams.packed()) < 60_000
    assert value(streams, f"{999_999}" + "x" * 100, 0.0) == 1.0


def test_what_is_only_supposed_is_no_label_and_what_becomes_of_it_is() -> None:
    told, plain = Streams(spec(decayed()).record), Streams(spec(decayed()).record)
    supposed = outcome("a", "x", HOUR, 0.0, "default")._replace(final=False)
    known = outcome("a", "x", 2 * HOUR, 1.0)._replace(learned=(Vote(0.0),))
    told.outcomes([supposed, known])
    plain.outcomes([outcome("a", "x", 2 * HOUR, 1.0)])
    assert value(told, "x", 3 * HOUR) == value(plain, "x", 3 * HOUR)
    told.outcomes([known._replace(votes=(Vote(1.0, "p"), Vote(1.0, "q")), learned=(Vote(1.0, "p"),), final=False)])
    assert value(told, "x", 3 * HOUR) == pytest.approx(value(plain, "x", 3 * HOUR))
