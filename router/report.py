"""What an experiment has shown so far: plain words first, the numbers under them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from router.accounts import GUARDS, Account, ArmsAccount, DuelAccount, PairedAccount
from router.accounts.arms import MEASURES
from router.accounts.scores import adds
from router.judge import Verdict, judge_arms, judge_duels, judge_shadow, sample_ratio
from router.rollout import described
from router.statistics import AsymptoticSequence, Moments, population_stability, rank_correlation
from router.statistics.sample_ratio import ALARM_LOG_E
from store.policy import Experiment, Policy
from store.records import Outcome
from store.spec import ModelRecord

_SLICES = 20
_OUTCOMES = MEASURES.index("outcomes")


def judge(experiment: Experiment, account: Account) -> list[Verdict]:
    """Return the verdict on each arm or shadow of an experiment."""
    match account:
        case ArmsAccount():
            return judge_arms(experiment, account)
        case PairedAccount():
            return judge_shadow(experiment, account)
        case DuelAccount():
            return judge_duels(experiment, account)
        case _:
            return []


def report(policy: Policy, experiment: Experiment, account: Account, now: float) -> dict[str, Any]:
    """Return an experiment's report as plain data, for JSON."""
    verdicts = judge(experiment, account)
    content: dict[str, Any] = {
        "experiment": experiment.name,
        "kind": experiment.kind,
        "status": experiment.progress.status,
        "where": described(policy, experiment.name),
        "running_s": round(now - experiment.progress.started_at, 1),
        "verdict": "; ".join(f"{verdict.arm}: {verdict.decision}" for verdict in verdicts),
        "why": "; ".join(verdict.why for verdict in verdicts) or experiment.progress.why,
        "findings": [_finding_row(verdict, finding) for verdict in verdicts for finding in verdict.findings],
    }
    match account:
        case ArmsAccount():
            content |= _of_arms(policy, experiment, account, now)
        case DuelAccount():
            content |= {"units": account.units, "lists": account.lists, "failed": account.failed}
            content["strategy"] = experiment.strategy
        case PairedAccount():
            content["shadows"] = [_of_pairs(account, variant) for variant in account.variants]
        case _:
            pass
    return content


def _finding_row(verdict: Verdict, finding: Any) -> dict[str, Any]:
    return {
        "arm": verdict.arm,
        "name": finding.name,
        "says": finding.says,
        "harm": finding.harm,
        "good": finding.good,
        "e_harm": _e(finding.log_e_harm),
        "needs_harm": _e(finding.needs_harm),
        "e_good": _e(finding.log_e_good),
        "needs_good": _e(finding.needs_good),
        **finding.numbers,
    }


def _e(log_e: float) -> float:
    """An e-value for reading: JSON has no infinity."""
    return float(f"{math.exp(min(log_e, 700.0)):.4g}")


def _of_arms(policy: Policy, experiment: Experiment, account: ArmsAccount, now: float) -> dict[str, Any]:
    judging = experiment.judging
    place = MEASURES.index(judging.metric)
    arms: list[dict[str, Any]] = []
    for arm, name in enumerate(account.arms):
        moments = account.moments[arm]
        outcomes = float(moments.sums[_OUTCOMES])
        events = {guard: sum(stage.events[guard][arm] for stage in account.stages) for guard in GUARDS}
        arms.append(
            {
                "arm": name,
                "version": next((variant.version for variant in policy.variants if variant.name == name), None),
                "share": account.stages[-1].shares[arm],
                "units": sum(stage.units[arm] for stage in account.stages),
                "closed": account.closed[arm],
                "predictions": account.predictions_by_arm[arm],
                "outcomes": int(outcomes),
                "metric": judging.metric,
                "value": float(moments.sums[place]) / outcomes if outcomes else None,
                "events": events,
            }
        )
    ratio = sample_ratio(account)
    harmed = sum(
        stage.events[guard][arm] for stage in account.stages for guard in ("errors", "timeouts") for arm in range(1, len(arms))
    )
    units = sum(arm["units"] for arm in arms)
    return {
        "arms": arms,
        "sample_ratio": {
            "e": _e(ratio.log_e) if ratio else None,
            "alarm": bool(ratio and ratio.log_e >= ALARM_LOG_E),
        },
        "harmed_units": harmed,
        "harmed_share": harmed / units if units else 0.0,
        "projection": projection(experiment, account, now),
    }


def projection(experiment: Experiment, account: ArmsAccount, now: float) -> dict[str, Any] | None:
    """How many units a decision on the metric is likely to need, and when they will have come at the present pace."""
    judging = experiment.judging
    place = MEASURES.index(judging.metric)
    baseline = account.moments[0]
    if baseline.n < 2 or not baseline.sums[_OUTCOMES] > 0.0:
        return None
    value = float(baseline.sums[place] / baseline.sums[_OUTCOMES])
    direction = np.zeros(len(MEASURES))
    direction[place], direction[_OUTCOMES] = 1.0, -value
    deviation = math.sqrt(max(0.0, float(direction @ baseline.covariance @ direction))) / float(baseline.mean[_OUTCOMES])
    share = max(account.stages[-1].shares[1:], default=0.0)
    margin = judging.margin * abs(value)
    needed = units_needed(deviation, margin, share, AsymptoticSequence(judging.alpha, judging.n_opt))
    seen = sum(account.closed)
    pace = seen / max(1e-9, now - experiment.progress.started_at)
    left = max(0, needed - seen) if needed is not None else None
    return {
        "units_needed": needed,
        "units_seen": seen,
        "seconds_left": round(left / pace) if left is not None and pace > 0.0 else None,
        "to_see": f"a difference of {margin:.4g} ({judging.margin:.0%} of {value:.4g})",
    }


def forecast(experiment: Experiment, record: ModelRecord, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What an experiment on this model's metric is likely to need, judged by earlier outcomes: before it has begun.

    Args:
        outcomes: final ones, in the order of their predictions.
    """
    judging = experiment.judging
    sums: dict[str, list[float]] = {}
    for outcome in outcomes:
        loss, label, count = adds(record, outcome)
        if count or outcome.unit in sums:
            row = sums.setdefault(outcome.unit, [0.0, 0.0])
            row[0] += loss if judging.metric == "loss" else label
            row[1] += count
    if len(sums) < 2:
        return {"refused": f"{len(sums)} units have had outcomes: too few to judge by"}
    moments = Moments.of(list(sums.values()))
    value = float(moments.sums[0] / moments.sums[1])
    direction = np.array([1.0, -value])
    deviation = math.sqrt(max(0.0, float(direction @ moments.covariance @ direction))) / float(moments.mean[1])
    shares = experiment.shares.values()
    share = experiment.steps[-1].share if experiment.steps else min(shares, default=0.0)
    margin = judging.margin * abs(value)
    needed = units_needed(deviation, margin, share, AsymptoticSequence(judging.alpha, judging.n_opt))
    span = max(1e-9, outcomes[-1].predicted_at - outcomes[0].predicted_at)
    pace = len(sums) / span * experiment.traffic
    return {
        "metric": judging.metric,
        "value": value,
        "deviation": deviation,
        "share": share,
        "to_see": f"a difference of {margin:.4g} ({judging.margin:.0%} of {value:.4g})",
        "units_needed": needed,
        "units_per_second": pace,
        "seconds": round(needed / pace) if needed is not None else None,
    }


def units_needed(deviation: float, effect: float, share: float, sequence: AsymptoticSequence, most: int = 10**9) -> int | None:
    """Units of both arms until the interval is likely to be narrower than an effect; None if never within `most`.

    Args:
        deviation: standard deviation of the metric between units, in its own unit, as `effect`.
        share: the treatment's share of the units.

    >>> units_needed(0.5, 0.05, 0.5, AsymptoticSequence(0.05, 10_000))
    3915
    """
    if not effect > 0.0 or not 0.0 < share < 1.0:
        return None

    def wide(n: int) -> bool:
        error = deviation * math.sqrt(1.0 / (n * share) + 1.0 / (n * (1.0 - share)))
        return sequence.half_width(n, error) > effect

    low, high = 1, 2
    while wide(high):
        low, high = high, high * 2
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if wide(middle) else (low, middle)
    return high


def _stability(answers: np.ndarray, shadows: np.ndarray) -> dict[str, Any] | None:
    """Whether the shadow's scores as a whole lie elsewhere than the answers', by the deciles of those."""
    edges = np.unique(np.quantile(answers, np.arange(1, 10) / 10))
    before, now = (np.bincount(np.searchsorted(edges, scores), minlength=len(edges) + 1) for scores in (answers, shadows))
    found = population_stability(before, now)
    return {"psi": found.index, "threshold": found.threshold, "alarm": found.alarm} if found is not None else None


def _of_pairs(account: PairedAccount, variant: str) -> dict[str, Any]:
    pairs = account.variants[variant]
    content: dict[str, Any] = {"variant": variant, "predictions": pairs.count, "failed": pairs.failed}
    if pairs.count:
        answers, shadows = np.array(pairs.sample).T
        content |= {
            "agreement": pairs.agree / pairs.count,
            "mean_gap": pairs.gap / pairs.count,
            "p99_gap": float(np.quantile(np.abs(answers - shadows), 0.99)),
            "rank_correlation": rank_correlation(answers, shadows),
            "score_stability": _stability(answers, shadows),
            "run_ms": pairs.seconds[0] / pairs.count * 1000,
            "answer_run_ms": pairs.seconds[1] / pairs.count * 1000,
            "labelled_units": pairs.moments.n,
            "only_shadow_right": pairs.wins,
            "only_answer_right": pairs.losses,
            "slices": [
                {"slice": name, "predictions": count, "disagree": apart / count, "mean_gap": gap / count}
                for name, (count, apart, gap) in sorted(pairs.slices.items(), key=lambda one: -one[1][1] / one[1][0])[:_SLICES]
            ],
        }
    return content
