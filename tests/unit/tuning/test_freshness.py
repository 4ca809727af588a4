"""What models of every cadence learned, by when, and what came of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store.encoding import Encoded
from store.records import Outcome
from tests.unit.tuning.steady import DAY_0, DAY_S, PER_DAY, expected_loss, outcomes, plan, replay, spec
from trainer.learner import Learned, Learner
from tuning import arm
from tuning.arm import Kind
from tuning.comparison import Result
from tuning.errors import TuningError
from tuning.freshness import RESULT, alone, carry_out, planned
from tuning.journal import Journal, Leg
from tuning.stateful import Stateful
from tuning.stateless import Stateless
from tuning.timeline import Timeline

learn, score = Learner.learn, Learner.score


def _even(day: float) -> float:
    del day
    return 0.3


def _shifted(day: float) -> float:
    return 0.2 if day < 4.0 else 0.8


def _day_of(moment: float) -> float:
    return (moment - DAY_0) / DAY_S


def test_no_model_has_seen_a_label_that_came_after_what_it_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest: dict[int, float] = {}
    kept: list[Learner] = []
    answered = 0

    def spied_learn(self: Learner, given: Sequence[Outcome], seed: str) -> Learned:
        kept.append(self)  # an id is not given twice
        newest[id(self)] = max(newest.get(id(self), 0.0), *(_day_of(one.received_at) for one in given))
        return learn(self, given, seed)

    def spied_score(self: Learner, encoded: Encoded) -> np.ndarray:
        nonlocal answered
        answered += len(encoded)
        assert newest[id(self)] <= encoded.numbers[:, 0].min()
        return score(self, encoded)

    made = plan(tmp_path, 7, _even, cadences=("never", "weekly", "daily", "hourly", "continuous"))
    monkeypatch.setattr(Learner, "learn", spied_learn)
    monkeypatch.setattr(Learner, "score", spied_score)
    carry_out(made, tmp_path)
    assert answered == 10 * 3 * PER_DAY


def test_each_label_is_in_the_first_model_after_it_came() -> None:
    timeline = Timeline(replay(outcomes(7, _even)))
    way, seen = Stateful(spec, timeline), set[str]()
    for day in (4, 5, 6):
        boundary = DAY_0 + day * DAY_S
        fresh = {one.id for batch in way.material(boundary) for one in batch.outcomes}
        assert not fresh & seen
        seen |= fresh
        assert seen == {one.id for one in outcomes(7, _even) if one.received_at < boundary}


def test_a_stateless_window_of_everything_holds_what_a_stateful_learner_has_learned() -> None:
    timeline = Timeline(replay(outcomes(7, _even)))
    everything, going_on = Stateless(spec, timeline, 1e9), Stateful(spec, timeline)
    going_on.material(DAY_0 + 5 * DAY_S)
    boundary = DAY_0 + 6 * DAY_S
    first, second = everything.material(boundary), going_on.material(boundary)
    assert [batch.seed for batch in first][-len(second) :] == [batch.seed for batch in second]
    assert {one.id for batch in first for one in batch.outcomes} == {
        one.id for one in outcomes(7, _even) if one.received_at < boundary
    }


def test_a_stateless_window_trails() -> None:
    timeline = Timeline(replay(outcomes(7, _even)))
    found = [one for batch in Stateless(spec, timeline, 2 * DAY_S).material(DAY_0 + 6 * DAY_S) for one in batch.outcomes]
    assert {one.id for one in found} == {one.id for one in outcomes(7, _even) if 4.0 <= _day_of(one.received_at) < 6.0}


@pytest.mark.parametrize("kind", ["stateful", "stateless"])
def test_fresher_is_better_by_what_the_shift_costs_until_it_is_learned(tmp_path: Path, kind: Kind) -> None:
    made = plan(tmp_path, 12, _shifted, cadences=("never", "daily", "hourly"), kinds=(kind,))
    result = carry_out(made, tmp_path)
    stale, fresh = expected_loss(0.8, 0.2), expected_loss(0.8, 0.8)
    assert result.arm("never", kind).loss == pytest.approx(stale, abs=0.1)
    # Of eight days a daily model misses the first.
    daily = result.arm("daily", kind)
    assert daily.loss == pytest.approx((stale + 7 * fresh) / 8, abs=0.06)
    assert daily.over_never is not None
    assert daily.over_never.high < 0.0
    assert result.arm("hourly", kind).loss == pytest.approx(fresh, abs=0.06)
    assert result.arm("hourly", kind).loss < daily.loss - 0.03


def test_in_a_world_that_stays_as_it_is_no_cadence_is_better(tmp_path: Path) -> None:
    result = carry_out(plan(tmp_path, 10, _even, cadences=("never", "weekly", "daily")), tmp_path)
    for one in result.arms:
        assert one.loss == pytest.approx(expected_loss(0.3, 0.3), abs=0.05)
        assert one.over_never is None or abs(one.over_never.mean) < 0.03


def test_a_sample_of_the_steps_says_what_all_of_them_would(tmp_path: Path) -> None:
    given: dict[str, Any] = {"cadences": ("never", "hourly"), "kinds": ("stateless",), "most": 40, "sampled": 8}
    some = carry_out(plan(tmp_path / "some", 7, _even, **given), tmp_path / "some").arm("hourly", "stateless")
    full = carry_out(plan(tmp_path / "full", 7, _even, **given | {"most": 1_000}), tmp_path / "full").arm("hourly", "stateless")
    assert (some.extrapolated, some.carried_out, full.extrapolated) == (True, 8, False)
    assert some.steps == full.steps == full.carried_out == 72
    assert some.outcomes == pytest.approx(full.outcomes, rel=0.03)
    places, scores = Journal(tmp_path / "some" / "hourly-stateless", 1).scores()
    _, all_scores = Journal(tmp_path / "full" / "hourly-stateless", 1).scores()
    assert some.scored == len(places) < full.scored
    np.testing.assert_array_equal(scores, all_scores[places])


class _Killed(Exception):
    pass


def _table(result: Result) -> Any:
    """All but the seconds."""
    arms = [one.model_dump(exclude={"seconds", "first_seconds"}) for one in result.arms]
    return arms, [one.model_dump(exclude={"cost_ratio", "updates_ratio"}) for one in result.pairs]


def test_a_killed_run_is_resumed_to_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"cadences": ("never", "hourly"), "most": 10, "sampled": 4}
    monkeypatch.setattr(arm, "LEG", 8)
    undisturbed = carry_out(plan(tmp_path / "a", 5, _shifted, **given), tmp_path / "a")
    made, add, written = plan(tmp_path / "b", 5, _shifted, **given), Journal.add, 0

    def killed(self: Journal, leg: Leg, scores: np.ndarray, state: tuple[bytes, bytes] | None = None) -> None:
        # Each leg is killed once when it is half written, and once when it is there.
        nonlocal written
        written += 1
        if written % 2:
            folder: Path = self._folder  # pyright: ignore[reportPrivateUsage]
            for name, rest in (("scores", b"xyz"), ("legs.jsonl", b'{"through": 7')):
                with open(folder / name, "ab") as file:
                    file.write(rest)
            (folder / f"state-{leg.through}").write_bytes(b"of a leg that nobody knows of")
        else:
            add(self, leg, scores, state)
        raise _Killed

    monkeypatch.setattr(Journal, "add", killed)
    for _ in range(50):
        try:
            found = carry_out(made, tmp_path / "b", resume=True)
            break
        except _Killed:
            continue
    else:
        pytest.fail("it never ends")
    assert _table(found) == _table(undisturbed)
    assert json.loads((tmp_path / "b" / RESULT).read_text()) == found.model_dump(mode="json")


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with alone(tmp_path, ""), pytest.raises(TuningError, match=r"or wait$"), alone(tmp_path, "wait"):
        pass


def test_what_was_begun_with_another_archive_is_not_gone_on_with(tmp_path: Path) -> None:
    given: dict[str, Any] = {"cadences": ("never",)}
    carry_out(plan(tmp_path, 5, _even, **given), tmp_path)
    with pytest.raises(TuningError, match="another archive"):
        carry_out(plan(tmp_path, 6, _even, **given), tmp_path, resume=True)
    assert carry_out(plan(tmp_path, 6, _even, **given), tmp_path).predictions == 2 * PER_DAY


def test_a_finished_run_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path, 6, _even, cadences=("never", "daily"))
    before = carry_out(made, tmp_path)

    def forbidden(*_: object) -> Learned:
        raise AssertionError("learned again")

    monkeypatch.setattr(Learner, "learn", forbidden)
    assert carry_out(made, tmp_path, resume=True) == before


def test_processes_of_their_own_come_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))  # where they find the declaration
    given: dict[str, Any] = {"cadences": ("never", "daily"), "kinds": ("stateful",)}
    shared = carry_out(plan(tmp_path / "a", 6, _even, **given), tmp_path / "a", cpus=2)
    assert _table(shared) == _table(carry_out(plan(tmp_path / "b", 6, _even, **given), tmp_path / "b"))


def test_how_often_a_stateless_model_goes_through_its_window_is_found_on_the_first_window_alone(tmp_path: Path) -> None:
    found = [outcomes(5, _even), [*outcomes(6, _shifted)]]
    first = [one for one in outcomes(6, _even) if one.received_at < DAY_0 + 4 * DAY_S]
    passes: set[int] = set()
    for number, rest in enumerate(found):
        later = [one for one in rest if one.received_at >= DAY_0 + 4 * DAY_S]
        folder = tmp_path / str(number)
        made = planned(replay(first + later), folder, window_days=4.0, cadences=("never",))
        passes.add(carry_out(made, folder).passes)
    assert len(passes) == 1
