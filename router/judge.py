"""The judge: from an experiment's sums to a verdict, in plain words. Valid at every moment, so it may be asked at any."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from router.accounts import GUARDS, ArmsAccount, DuelAccount, PairedAccount
from router.statistics import (
    AsymptoticSequence,
    Difference,
    EventRate,
    Moments,
    RelativeRisk,
    SampleRatio,
    adjusted_ratio_difference,
    ratio_difference,
)
from router.statistics.sample_ratio import ALARM_LOG_E
from store.policy import Experiment

Decision = Literal["roll back", "promote", "wait", "block"]
"""`block`: go no further until this is cleared up."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a guard tolerates: `harmless` is the relative risk up to which there is no harm, `margin` the one below which an arm
    is as good as the baseline, and so is one with fewer than `tolerance` events per unit, whatever the baseline has."""

    harmless: float
    margin: float
    tolerance: float


LIMITS = {
    "errors": Limits(1.0, 1.25, 0.01),
    "timeouts": Limits(1.0, 1.25, 0.01),
    "latency": Limits(1.5, 2.0, 0.05),
    "scores": Limits(3.0, 4.0, 0.1),
}
BREAKER_UNITS, BREAKER_SHARE = 10, 0.5
"""An arm that failed this many units of a stage, and this share of them, is stopped without statistics."""

SHADOW_FAILURES = 0.01
BURN_IN_UNITS, BURN_IN_EVENTS = 50, 20
_MEASURE = {"loss": 0, "label": 2}
_OUTCOMES, _BEFORE, _BEFORE_OUTCOMES = 1, 3, 4


@dataclass(frozen=True, slots=True)
class Finding:
    """What one guard or metric says of one arm.

    `log_e_harm` is the evidence that it does harm, `log_e_good` that it is not worse than its margin (or, where the plan asks
    for it, that it is better); `needs_harm` and `needs_good` are what decides.
    """

    name: str
    says: str
    harm: bool
    good: bool
    log_e_harm: float
    needs_harm: float
    log_e_good: float
    needs_good: float
    numbers: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judge's word on one arm, and why."""

    arm: str
    decision: Decision
    why: str
    findings: tuple[Finding, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Plain data, for a report or a record."""
        return asdict(self)


def judge_arms(experiment: Experiment, account: ArmsAccount) -> list[Verdict]:
    """Return the verdict on each arm that is not the baseline."""
    ratio = sample_ratio(account)
    verdicts: list[Verdict] = []
    for arm in range(1, len(account.arms)):
        if not account.stages[-1].shares[arm] > 0.0:
            continue  # taken out already
        metrics = dict.fromkeys((experiment.judging.metric, *experiment.judging.secondary))
        guards = len(GUARDS) + len(metrics)
        findings = [_event_finding(experiment, account, arm, guard, guards) for guard in GUARDS]
        findings += [_metric_finding(experiment, account, arm, metric, guards) for metric in metrics]
        verdicts.append(_verdict(experiment, account, arm, findings, ratio))
    return verdicts


def _verdict(
    experiment: Experiment, account: ArmsAccount, arm: int, findings: list[Finding], ratio: SampleRatio | None
) -> Verdict:
    name = account.arms[arm]
    if broken := _breaker(account, arm):
        return Verdict(name, "roll back", broken, tuple(findings))
    by_labels = account.labels >= BURN_IN_EVENTS
    harmful = [finding for finding in findings if finding.harm]
    odd = [finding for finding in harmful if finding.name == "scores"]
    if harmful and not (by_labels and harmful == odd):
        return Verdict(name, "roll back", "; ".join(finding.says for finding in harmful), tuple(findings))
    good = [finding for finding in findings if finding.name == experiment.judging.metric and finding.good]
    if odd and not good:
        # A better version may well score otherwise. Where labels come, they decide.
        why = f"{odd[0].says}, which are no scores of the baseline's: the labels are to decide; {findings[len(GUARDS)].says}"
        return Verdict(name, "block", why, tuple(findings))
    if ratio is not None and ratio.log_e >= ALARM_LOG_E:
        why = "units arrive in other proportions than they were assigned: nothing here can be trusted until that is explained"
        return Verdict(name, "block", why, tuple(findings))
    missing = [finding for finding in findings if not finding.good and not (finding.name == "scores" and by_labels)]
    if missing:
        return Verdict(name, "wait", "not shown yet: " + "; ".join(finding.says for finding in missing), tuple(findings))
    return Verdict(name, "promote", "every guard and metric is within its margin", tuple(findings))


def _breaker(account: ArmsAccount, arm: int) -> str | None:
    stage = account.stages[-1]
    failed = stage.events["errors"][arm] + stage.events["timeouts"][arm]
    if failed >= BREAKER_UNITS and failed >= BREAKER_SHARE * stage.units[arm]:
        return f"it failed {failed:,} of its {stage.units[arm]:,} units"
    return None


def sample_ratio(account: ArmsAccount) -> SampleRatio | None:
    """The sequential test of the units' proportions, over all stages; None where only one arm gets any."""
    test: SampleRatio | None = None
    for stage in account.stages:
        shares = [(share, units) for share, units in zip(stage.shares, stage.units, strict=True) if share > 0.0]
        if len(shares) < 2:
            continue
        total = sum(share for share, _ in shares)
        parts = tuple(share / total for share, _ in shares)
        test = SampleRatio(parts) if test is None else test.stage(parts)
        test = test.add([units for _, units in shares])
    return test


def _event_finding(experiment: Experiment, account: ArmsAccount, arm: int, guard: str, guards: int) -> Finding:
    limits, judging = LIMITS[guard], experiment.judging
    harmless = 1.0 if guard == "latency" and judging.slo_ms is not None else limits.harmless
    harm = relative_risk(account, arm, guard, harmless)
    good = relative_risk(account, arm, guard, 1.0 / limits.margin, swapped=True)
    rate = EventRate(limits.tolerance).add(account.flagged[guard][arm], account.closed[arm])
    # Both are e-values against "worse than the margin, and above the tolerance too": so is their average.
    log_good = float(_log_mean(good, rate.log_e))
    events = [sum(stage.events[guard][place] for stage in account.stages) for place in (0, arm)]
    units = [sum(stage.units[place] for stage in account.stages) for place in (0, arm)]
    needs_harm, needs_good = math.log(guards / judging.alpha_fail), math.log(1.0 / judging.alpha)
    says = (
        f"{guard}: {events[1]:,} of {units[1]:,} units of '{account.arms[arm]}', {events[0]:,} of {units[0]:,} of "
        f"'{account.arms[0]}'"
    )
    return Finding(
        guard, says, harm >= needs_harm, log_good >= needs_good, harm, needs_harm, log_good, needs_good,
        {"events": events, "units": units},
    )  # fmt: skip


def relative_risk(account: ArmsAccount, arm: int, guard: str, r0: float, swapped: bool = False) -> float:
    """Log of the e-value against "an event is at most `r0` times as likely for the arm" (swapped: for the baseline)."""
    process: RelativeRisk | None = None
    for stage in account.stages:
        baseline, treated = stage.shares[0], stage.shares[arm]
        if baseline <= 0.0 or treated <= 0.0:
            continue
        share = (baseline if swapped else treated) / (baseline + treated)
        events = (stage.events[guard][0], stage.events[guard][arm])
        process = RelativeRisk(share, r0) if process is None else process.stage(share)
        process = process.add(canary=events[0] if swapped else events[1], baseline=events[1] if swapped else events[0])
    return process.log_e if process is not None else 0.0


def metric_difference(account: ArmsAccount, arm: int, metric: str, primary: bool) -> Difference | None:
    """The difference of a metric per outcome, arm minus baseline, adjusted by what the units were before (the primary one)."""
    baseline, treated = account.moments[0], account.moments[arm]
    if primary:
        return adjusted_ratio_difference(baseline, treated, _MEASURE[metric], _OUTCOMES, _BEFORE, _BEFORE_OUTCOMES)
    return ratio_difference(baseline, treated, _MEASURE[metric], _OUTCOMES)


def _metric_finding(experiment: Experiment, account: ArmsAccount, arm: int, metric: str, guards: int) -> Finding:
    judging = experiment.judging
    arms = max(1, len(account.arms) - 1)
    needs_harm, needs_good = math.log(guards / judging.alpha_fail), math.log(arms / judging.alpha)
    difference = metric_difference(account, arm, metric, metric == judging.metric)
    if difference is None or not all(_burnt_in(account.moments[place], metric) for place in (0, arm)):
        says = f"{metric}: too few units with outcomes to say anything"
        return Finding(metric, says, False, False, 0.0, needs_harm, 0.0, needs_good)
    values = [float(m.sums[_MEASURE[metric]] / m.sums[_OUTCOMES]) for m in (account.moments[0], account.moments[arm])]
    worse = 1.0 if metric == "loss" or not judging.larger_is_better else -1.0
    sequence = AsymptoticSequence(judging.alpha / arms, judging.n_opt)
    low, high = sequence.interval(difference)
    null = 0.0 if judging.better else worse * judging.margin * abs(values[0])
    harm = sequence.log_e(difference, null) if worse * (difference.estimate - null) > 0.0 else 0.0
    good = sequence.log_e(difference, null) if worse * (difference.estimate - null) < 0.0 else 0.0
    wanted = "better" if judging.better else f"not more than {judging.margin:.0%} worse"
    says = (
        f"{metric}: {values[1]:.4g} for '{account.arms[arm]}', {values[0]:.4g} for '{account.arms[0]}', difference "
        f"{difference.estimate:+.4g} ({low:+.4g} to {high:+.4g}); to be {wanted}"
    )
    numbers = {"values": values, "difference": difference.estimate, "interval": [low, high], "units": difference.n}
    return Finding(
        metric, says, harm >= needs_harm, good >= needs_good, harm, needs_harm, good, needs_good, numbers
    )  # fmt: skip


def _burnt_in(moments: Moments, metric: str) -> bool:
    if moments.n < BURN_IN_UNITS or moments.sums[_OUTCOMES] < BURN_IN_UNITS:
        return False
    return metric == "loss" or float(moments.sums[_MEASURE[metric]]) >= BURN_IN_EVENTS


def judge_shadow(experiment: Experiment, account: PairedAccount) -> list[Verdict]:
    """Return the verdict on each shadowing variant: roll back what fails or is worse, else wait."""
    return [_paired_verdict(experiment, account, variant) for variant in account.variants]


def _paired_verdict(experiment: Experiment, account: PairedAccount, variant: str) -> Verdict:
    judging, pairs = experiment.judging, account.variants[variant]
    needs_harm, needs_good = math.log(2 / judging.alpha_fail), math.log(1.0 / judging.alpha)
    total = pairs.count + pairs.failed
    failures = EventRate(SHADOW_FAILURES, "above").add(pairs.failed, total).log_e
    few = EventRate(SHADOW_FAILURES).add(pairs.failed, total).log_e
    findings = [
        Finding(
            "errors", f"errors: {pairs.failed:,} of {total:,} shadowed predictions", failures >= needs_harm, few >= needs_good,
            failures, needs_harm, few, needs_good, {"failed": pairs.failed, "predictions": total},
        ),
    ]  # fmt: skip
    discordant = RelativeRisk(0.5).add(canary=pairs.losses, baseline=pairs.wins).log_e
    says = f"decisions: on {pairs.wins:,} units only the shadow was right, on {pairs.losses:,} only the answer"
    # For reading: a version may well be better by its loss and decide worse at a threshold that nobody uses.
    findings.append(Finding("decisions", says, False, True, discordant, needs_harm, 0.0, 0.0))
    if pairs.moments.n >= BURN_IN_UNITS:
        findings.append(_paired_loss(experiment, pairs.moments, needs_harm, needs_good))
    harmful = [finding.says for finding in findings if finding.harm]
    if harmful:
        return Verdict(variant, "roll back", "; ".join(harmful), tuple(findings))
    return Verdict(variant, "wait", "nothing speaks against it", tuple(findings))


def _paired_loss(experiment: Experiment, moments: Moments, needs_harm: float, needs_good: float) -> Finding:
    sequence = AsymptoticSequence(experiment.judging.alpha, experiment.judging.n_opt)
    error = math.sqrt(float(moments.covariance[0, 0]) / moments.n)
    difference = Difference(float(moments.mean[0]), error, moments.n)
    low, high = sequence.interval(difference)
    null = 0.0 if experiment.judging.better else experiment.judging.margin * float(moments.mean[1])
    log_e = sequence.log_e(difference, null)
    harm, good = (log_e, 0.0) if difference.estimate > null else (0.0, log_e)
    says = f"loss: {difference.estimate:+.4g} against the answers' {moments.mean[1]:.4g} ({low:+.4g} to {high:+.4g})"
    numbers = {"difference": difference.estimate, "interval": [low, high], "units": moments.n}
    return Finding("loss", says, harm >= needs_harm, good >= needs_good, harm, needs_harm, good, needs_good, numbers)


def judge_duels(experiment: Experiment, account: DuelAccount) -> list[Verdict]:
    """Return the verdict on each ranker that is not the baseline: by the units that it and the baseline won of each other."""
    judging = experiment.judging
    rivals = len(account.rankers) - 1
    # Both directions of each pair are watched.
    needs_harm, needs_good = math.log(rivals / judging.alpha_fail), math.log(2 * rivals / judging.alpha)
    verdicts: list[Verdict] = []
    for place, name in enumerate(account.rankers[1:], 1):
        duel = account.duels.pairs[0, place]
        harm, good = duel.log_e
        says = (
            f"lists: '{name}' won {duel.wins_b:,} units and '{account.rankers[0]}' {duel.wins_a:,}, "
            f"{duel.ties + duel.none:,} were undecided"
        )
        numbers = {"won": duel.wins_b, "lost": duel.wins_a, "ties": duel.ties, "none": duel.none}
        finding = Finding("lists", says, harm >= needs_harm, good >= needs_good, harm, needs_harm, good, needs_good, numbers)
        decision: Decision = "roll back" if finding.harm else "promote" if finding.good else "wait"
        verdicts.append(Verdict(name, decision, says, (finding,)))
    return verdicts


def _log_mean(one: float, other: float) -> float:
    """log((exp(one) + exp(other))/2)."""
    top = max(one, other)
    return top + math.log((math.exp(one - top) + math.exp(other - top)) / 2)
