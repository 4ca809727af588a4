"""Drift: each kind is found and told in full, one change is one alarm, and nothing that a stream holds ends the watching."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel

from store.drift import Drift, summary
from store.encoding import Encoder
from store.records import Outcome, Served
from store.schema import Row
from store.spec import ModelSpec
from trainer.drift import Alarm, Monitor, Seen
from trainer.drift.bins import learned, placed
from trainer.drift.chi_square import chi_square
from trainer.drift.ks import ks
from trainer.drift.page_hinkley import threshold
from trainer.drift.season import Season
from trainer.drift.state import join, pack, split, unpack

START = 1_700_006_400.0
QUICK = Drift(short=64, long=512)


class Features(BaseModel):
    price: float | None
    size: float
    country: str


SPEC = ModelSpec(name="m", features=Features, slices=("country",), drift=QUICK)
ENCODER = Encoder(SPEC.record.features)


def _seen(rows: Sequence[Row], losses: np.ndarray, labels: Sequence[float], first: int = 0, step_s: float = 1.0) -> Seen:
    outcomes = [
        Outcome(str(n), "u", row, [0.5], Served("main", 1, 1.0), label, "label", True, START + step_s * n, 0.0, 0.0)
        for n, (row, label) in enumerate(zip(rows, labels, strict=True), first)
    ]
    outputs = np.random.default_rng(first).random((len(rows), 1), np.float32)
    return Seen(outcomes, ENCODER.encode(rows), outputs, losses)


def _rows(draw: np.random.Generator, count: int, **changed: Any) -> list[Row]:
    """Rows whose price and size go together; `changed` gives the price's shift, a country, or the sign of the size."""
    base = draw.normal(size=count)
    shift, sign = changed.get("price", 0.0), changed.get("sign", 1.0)
    where = changed.get("where", "")
    countries = draw.choice(["VN", "JP", changed.get("country", "FR")], count, p=[0.4, 0.4, 0.2]).tolist()
    return [
        [float(number + (shift if where in ("", country) else 0.0)), float(sign * number + noise), country]
        for number, noise, country in zip(base, draw.normal(0.0, 0.3, count), countries, strict=True)
    ]


def _run(
    monitor: Monitor, seed: int, batches: int, first: int = 0, loss: float = 1.0, rate: float = 0.3, **changed: Any
) -> list[Alarm]:
    draw, alarms = np.random.default_rng(seed), list[Alarm]()
    for number in range(batches):
        rows = _rows(draw, 100, **changed)
        labels = (draw.random(100) < rate).astype(float).tolist()
        losses = draw.gamma(2.0, 0.5 * loss, 100)
        alarms += monitor.take(_seen(rows, losses, labels, first + 100 * number), f"1-{first + 100 * number}")
    return alarms


def _watching(settings: Drift = QUICK) -> Monitor:
    monitor = Monitor(SPEC.record, settings)
    assert _run(monitor, 1, 40) == []
    return monitor


def _after(settings: Drift = QUICK, batches: int = 15, **changed: Any) -> list[Alarm]:
    return _run(_watching(settings), 2, batches, 4000, **changed)


def test_a_feature_that_moves_is_told_with_since_when_how_much_and_where() -> None:
    [alarm] = _after(QUICK.model_copy(update={"watch": ("covariate",)}), price=3.0, where="VN", batches=6)
    [moved] = alarm.moved
    assert (alarm.kind, moved.what, moved.test) == ("covariate", "price", "ks")
    assert abs(alarm.since.outcome - 4000) <= 64
    assert alarm.since.at == START + alarm.since.outcome
    assert alarm.found.outcome > 4000
    assert moved.before is not None
    assert moved.after is not None
    assert moved.after - moved.before > 0.5
    assert (moved.slices[0].slice, moved.slices[0].value) == ("country", "VN")
    assert "covariate shift since 2023-11-15" in summary(alarm.told())


def test_one_change_is_one_alarm_of_its_kind() -> None:
    alarms = _after(QUICK.model_copy(update={"watch": ("covariate",)}), price=3.0, batches=40)
    assert len(alarms) == 1


def test_what_is_told_of_values_beyond_all_sums_is_json() -> None:
    monitor = Monitor(SPEC.record, QUICK)
    draw, alarms = np.random.default_rng(4), list[Alarm]()
    for number in range(80):
        rows = _rows(draw, 100, price=0.0 if number < 60 else 3.0)
        rows = [[3e38 if place % 9 == 0 else row[0], *row[1:]] for place, row in enumerate(rows)]
        alarms += monitor.take(_seen(rows, draw.gamma(2.0, 0.5, 100), [0.0] * 100, 100 * number), f"1-{number}")
    assert any(moved.what == "price" for alarm in alarms for moved in alarm.moved)
    json.dumps([alarm.told() for alarm in alarms], allow_nan=False)


def test_a_category_that_makes_way_for_a_new_one_is_told_by_its_share() -> None:
    alarms = _after(country="DE", batches=4)
    [moved] = [one for alarm in alarms for one in alarm.moved if one.what == "country"]
    assert (moved.test, moved.value) == ("chi-square", "FR")
    assert moved.after is not None
    assert moved.after < 0.1
    assert moved.before == pytest.approx(0.2, abs=0.05)


def test_a_concept_that_drifts_is_told_with_the_loss_before_and_after() -> None:
    [alarm] = _after(QUICK.model_copy(update={"watch": ("concept",)}), loss=2.0)
    [moved] = alarm.moved
    assert alarm.kind == "concept"
    assert moved.before == pytest.approx(1.0, abs=0.1)
    assert moved.after == pytest.approx(2.0, abs=0.5)
    assert abs(alarm.since.outcome - 4000) <= 128


def test_a_loss_that_falls_is_no_alarm() -> None:
    assert _after(loss=0.4, batches=40) == []


def test_labels_that_shift_are_told() -> None:
    assert {alarm.kind for alarm in _after(rate=0.8)} == {"label"}


def test_features_that_go_together_otherwise_are_found_though_each_is_as_it_was() -> None:
    alarms = _after(sign=-1.0, batches=20)
    assert {alarm.kind for alarm in alarms} == {"multivariate"}


def test_batches_of_any_size_give_the_same_alarms() -> None:
    draw = np.random.default_rng(5)
    rows = _rows(draw, 4000) + _rows(draw, 1000, price=2.0)
    losses, labels = draw.gamma(2.0, 0.5, 5000), [0.0] * 5000
    found: list[list[Alarm]] = []
    for size in (1, 77, 5000):
        monitor, alarms = Monitor(SPEC.record, QUICK), list[Alarm]()
        encoded = _seen(rows, losses, labels)
        for first in range(0, 5000, size):
            part = slice(first, first + size)
            cut = Seen(
                encoded.outcomes[part],
                encoded.encoded.take(range(*part.indices(5000))),
                encoded.outputs[part],
                encoded.losses[part],
            )
            alarms += monitor.take(cut, "1-1")
        assert not monitor.off
        found.append([replace(one, moved=()) for one in alarms])
    assert found[0] == found[1] == found[2]
    assert found[0]


@pytest.mark.parametrize("season", [None, "hour"])
@pytest.mark.parametrize("at", [1, 13, 41])
def test_a_state_that_was_saved_goes_on_bit_for_bit(season: Literal["hour"] | None, at: int) -> None:
    settings = QUICK.model_copy(update={"season": season})
    whole, cut = Monitor(SPEC.record, settings), Monitor(SPEC.record, settings)
    assert _run(whole, 1, at) == _run(cut, 1, at)
    resumed = Monitor(SPEC.record, settings)
    assert resumed.restore(cut.state())
    assert resumed.state() == whole.state()
    change: dict[str, Any] = {"price": 2.0, "loss": 2.0}
    assert _run(resumed, 9, 50, 100 * at, **change) == _run(whole, 9, 50, 100 * at, **change)
    assert resumed.state() == whole.state()


def test_a_state_of_other_settings_is_not_taken_up() -> None:
    assert not Monitor(SPEC.record, Drift(short=128)).restore(_watching().state())
    # How alarms are answered is no part of what is usual.
    assert Monitor(SPEC.record, QUICK.model_copy(update={"respond": ("retrain",)})).restore(_watching().state())


def test_a_checkpoint_and_the_state_behind_it_come_apart_again() -> None:
    from store.artefact import pack_weights  # noqa: PLC0415

    checkpoint = pack_weights({"a": np.ones(3, np.float32)}, {"recent": "[0, 0]"})
    assert split(join(checkpoint, b"state")) == (checkpoint, b"state")
    assert split(checkpoint) == (checkpoint, b"")
    assert split(pack_weights({}))[1] == b""
    assert unpack(pack([1, "x", None, float("inf")])) == [1, "x", None, float("inf")]


HOSTILE: dict[str, list[Row]] = {
    "constants": [[1.0, 1.0, "VN"]] * 600,
    "nothing but missing": [[None, 0.0, "VN"]] * 600,
    "huge": [[3e38, -3e38, "x" * 1000]] * 600,
    "ever new categories": [[1.0, 2.0, f"c{n}"] for n in range(600)],
}


@pytest.mark.parametrize("rows", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("first", [False, True])
def test_nothing_that_a_stream_holds_ends_the_watching(rows: list[Row], first: bool) -> None:
    monitor = Monitor(SPEC.record, QUICK) if first else _watching()
    for loss in (0.0, 1e30, np.nan, np.inf):
        monitor.take(_seen(rows, np.full(600, loss), [1.0] * 600), "1-1")
    _run(monitor, 3, 10)
    assert monitor.off == {}
    assert Monitor(SPEC.record, QUICK).restore(monitor.state())


def test_times_that_go_backwards_or_are_absurd_end_nothing() -> None:
    monitor = Monitor(SPEC.record, QUICK.model_copy(update={"season": "hour and weekday"}))
    draw = np.random.default_rng(1)
    for step_s in (-50.0, 0.0, 1e9, -1e12, 3600.0):
        monitor.take(_seen(_rows(draw, 500), draw.random(500), [0.0] * 500, 0, step_s), "1-1")
    assert monitor.off == {}


def test_a_detector_that_fails_is_switched_off_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bad day")

    monkeypatch.setattr("trainer.drift.kernel.KernelTest.look", broken)
    monitor = _watching()
    assert monitor.off == {"kernel": "ZeroDivisionError: a bad day"}
    assert {alarm.kind for alarm in _run(monitor, 2, 10, 4000, price=3.0)} == {"covariate"}
    resumed = Monitor(SPEC.record, QUICK)
    assert resumed.restore(monitor.state())
    assert resumed.off == monitor.off


def test_a_vector_moves_by_its_length_and_directions() -> None:
    from typing import Annotated  # noqa: PLC0415

    from pydantic import Field  # noqa: PLC0415

    class WithVector(BaseModel):
        v: Annotated[list[float], Field(min_length=4, max_length=4)]

    record = ModelSpec(name="v", features=WithVector).record
    encoder, monitor = Encoder(record.features), Monitor(record, QUICK)
    draw, alarms = np.random.default_rng(0), list[Alarm]()
    for shift in [0.0] * 8 + [2.0] * 2:
        rows: list[Row] = [encoder.row({"v": (vector + shift).tolist()}) for vector in draw.normal(size=(500, 4))]
        seen = _seen([[None, 0.0, ""] for _ in rows], draw.random(500), [0.0] * 500)
        alarms += monitor.take(replace(seen, encoded=encoder.encode(rows)), "1-1")
    assert any(one.what == "v (length)" for alarm in alarms for one in alarm.moved)


def test_the_tests_agree_with_what_is_known() -> None:
    # 0.5 apart with 100 rows on either side: 2 exp(-2 · 0.25 · 50).
    distance, log_p = ks(np.array([1.0, 0.0]), np.array([0.5, 0.5]), 100.0, 100.0)
    assert (distance, log_p) == (0.5, pytest.approx(np.log(2.0) - 25.0))
    # 30 and 70 against 50 and 50 of 100 each: Pearson's statistic is 8.33, p = 0.0039.
    distance, log_p = chi_square(np.array([0.3, 0.7]), np.array([0.5, 0.5]), 100.0, 100.0)
    assert (distance, np.exp(log_p)) == (pytest.approx(0.2), pytest.approx(0.00389, rel=0.01))
    # A slack of a half and a threshold of 4: a false alarm in about 336 values upwards, by the formula's tables.
    assert threshold(1.0 / 336.0) == pytest.approx(4.0, abs=0.1)


def test_bins_tell_apart_what_lies_beyond_all_that_was_seen() -> None:
    by = learned(np.full(100, 7.0), False)
    below, same, above, missing = placed(np.array([6.0, 7.0, 8.0, np.nan]), by, False).tolist()
    assert len({below, same, above, missing}) == 4
    codes = learned(np.array([3.0, 3.0, 5.0, 0.0]), True)
    known, other, gone = placed(np.array([3.0, 9.0, 0.0]), codes, True).tolist()
    assert len({known, other, gone}) == 3


def test_a_season_weighs_the_two_hours_that_a_time_lies_between() -> None:
    season = Season.of("hour")
    weights = season.weights(np.array([0.25 * 3600.0, 23.75 * 3600.0]))
    assert (weights[0], weights[23]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert Season.of(None).weights(np.array([1.0, 2.0])).tolist() == [2.0]
    assert season.learning_s == 2 * 86_400.0
