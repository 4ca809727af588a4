"""The e-process for relative risk: fair to the last event under the null, and quick where there is something."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from router.statistics import RelativeRisk

ALARM = math.log(20.0)
RAMP = (0.01, 0.05, 0.25, 0.5)
STAGE_REQUESTS = 2_500


def _stopped(seed: int, risk: float, base: Callable[[int], float], requests: int, ramp: tuple[float, ...] = RAMP) -> int:
    """Watch a canary event by event; return the request at which the alarm came, or 0."""
    draw = np.random.default_rng(seed)
    process = RelativeRisk(ramp[0])
    for stage in range(math.ceil(requests / STAGE_REQUESTS)):
        share = ramp[min(stage, len(ramp) - 1)]
        if 0 < stage < len(ramp):
            process = process.stage(share)
        canary = draw.random(STAGE_REQUESTS) < share
        rate = base(stage) * np.where(canary, risk, 1.0)
        for request in np.flatnonzero(draw.random(STAGE_REQUESTS) < rate):
            process = process.add(int(canary[request]), int(not canary[request]))
            if process.log_e >= ALARM:
                return stage * STAGE_REQUESTS + int(request) + 1
    return 0


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
@pytest.mark.parametrize("r0", [0.8, 1.0, 1.25])
def test_at_the_edge_of_the_null_its_expectation_is_one(share: float, r0: float) -> None:
    theta = share * r0 / (share * r0 + 1 - share)
    events = 40
    expected = sum(
        stats.binom.pmf(canary, events, theta) * math.exp(RelativeRisk(share, r0).add(canary, events - canary).log_e)
        for canary in range(events + 1)
    )
    assert expected == pytest.approx(1.0, rel=1e-9)


def test_inside_the_null_its_expectation_is_below_one() -> None:
    expected = sum(
        stats.binom.pmf(canary, 40, 0.4) * math.exp(RelativeRisk(0.5).add(canary, 40 - canary).log_e) for canary in range(41)
    )
    assert expected < 0.7


def test_stages_multiply_for_each_risk_and_order_does_not_matter() -> None:
    one = RelativeRisk(0.1).add(3, 5).stage(0.5).add(7, 2)
    other = RelativeRisk(0.5).add(7, 2).stage(0.1).add(3, 5)
    assert one.log_e == pytest.approx(other.log_e)
    assert RelativeRisk(0.3).add(4, 4).stage(0.3).add(1, 2).log_e == pytest.approx(RelativeRisk(0.3).add(5, 6).log_e)
    assert RelativeRisk(0.3).stage(0.4).stage(0.5).log_e == pytest.approx(0.0)


@pytest.mark.simulation
def test_watched_at_every_event_it_cries_wolf_in_less_than_a_twentieth() -> None:
    def drifting(stage: int) -> float:
        return 0.01 * (1 + stage % 4)

    runs = 200
    alarms = sum(_stopped(seed, 1.0, drifting, 12_500) > 0 for seed in range(runs))
    assert alarms / runs <= 0.05


@pytest.mark.parametrize(("risk", "least", "most"), [(5.0, 3_000, 10_000), (2.0, 8_000, 45_000)])
def test_a_bad_canary_is_caught(risk: float, least: int, most: int) -> None:
    stops = [_stopped(1_000 + seed, risk, lambda _: 0.01, 100_000) for seed in range(60)]
    assert all(stops)
    assert least <= np.median(stops) <= most


@pytest.mark.parametrize(
    "wrong", [{"share": 0.0}, {"share": 1.0}, {"share": 0.5, "r0": 0.0}, {"share": 0.5, "evidence": (0.0,)}]
)
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"share|r0"):
        RelativeRisk(**wrong)  # pyright: ignore[reportArgumentType]
