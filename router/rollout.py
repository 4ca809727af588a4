"""The state machine of experiments that decide by themselves: in, step by step, to champion, or back. Pure: the policy that
comes in says where it is, the one that goes out what happens next, so that whoever installs it by compare-and-set decides
once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from router.judge import Verdict
from router.revision import revise
from store.errors import PolicyError
from store.policy import Experiment, Policy, Progress, RolloutPlan, Variant

ROLLOUT, CANDIDATE = "rollout", "candidate"
"""The experiment and the variant of a version that enters by itself."""

Action = Literal["enter", "step", "promote", "roll back", "hold", "pause", "resume", "stop", "set", "place"]


@dataclass(frozen=True, slots=True)
class Move:
    """A change of the policy, and what is to be kept on record with it.

    Attributes:
        rejected: the version that is not to be tried again; 0 for none. `champion`: the one that is champion now.
        evidence: the verdicts that led to it, as plain data.
    """

    policy: Policy
    action: Action
    experiment: str
    before: str
    after: str
    why: str
    rejected: int = 0
    champion: int = 0
    evidence: Sequence[dict[str, Any]] = ()


def enter(policy: Policy, plan: RolloutPlan, version: int, now: float) -> Move:
    """Put a version on trial as the plan says."""
    first = plan.steps[0]
    experiment = Experiment(
        name=ROLLOUT,
        kind=first.kind,
        shares={CANDIDATE: first.share},
        judging=plan.judging,
        steps=plan.steps,
        max_s=plan.max_s,
    )
    others = tuple(variant for variant in policy.variants if variant.name != CANDIDATE)
    entered = policy.model_copy(
        update={
            "variants": (
                *others,
                # What suits the default arm suits what may become it.
                Variant(name=CANDIDATE, line=plan.line, version=version, placement=policy.variant(policy.default).placement),
            ),
            "experiments": (*policy.experiments, experiment),
            "tried": max(version, policy.tried),
            "tried_at": now,
        }
    )
    progress = Progress(entered_at=now, started_at=now)
    placed = tuple(one.model_copy(update={"progress": progress}) if one.name == ROLLOUT else one for one in entered.experiments)
    changed = revise(policy, entered.model_copy(update={"experiments": placed}), now, moved=ROLLOUT)
    return Move(changed, "enter", ROLLOUT, "", described(changed, ROLLOUT), f"version {version} was published")


def advance(policy: Policy, name: str, verdicts: Sequence[Verdict], units: int, now: float) -> Move | None:
    """Return what the verdicts on an experiment's arms lead to, or None while it is to go on as it is.

    Args:
        units: that the candidate has had in this step.
    """
    experiment = find(policy, name)
    if experiment.kind == "shadow" and not experiment.steps:
        return None  # it is there to be looked at, and harms nobody
    evidence = [verdict.plain() for verdict in verdicts]
    for verdict in verdicts:
        if verdict.decision == "roll back":
            return roll_back(policy, name, verdict.arm, verdict.why, now, evidence)
    if not experiment.steps or experiment.progress.status != "running":
        return None
    return _onward(policy, experiment, verdicts, units, now, evidence) or _timed_out(
        policy, experiment, verdicts, now, evidence
    )


def _onward(
    policy: Policy,
    experiment: Experiment,
    verdicts: Sequence[Verdict],
    units: int,
    now: float,
    evidence: Sequence[dict[str, Any]],
) -> Move | None:
    """The next step, or the promotion, once this step has lasted and nothing stands against it."""
    step, last = experiment.steps[experiment.progress.step], experiment.progress.step == len(experiment.steps) - 1
    blocked = any(verdict.decision == "block" for verdict in verdicts)
    if blocked or now - experiment.progress.entered_at < step.min_s or units < step.min_units:
        return None
    good = all(verdict.decision == "promote" for verdict in verdicts) and bool(verdicts)
    if last:
        why = "every guard and metric is within its margin"
        return promote(policy, experiment.name, why, now, evidence) if good else None
    following = experiment.steps[experiment.progress.step + 1]
    # Everybody is not for those who have shown nothing yet.
    if good or following.kind == "shadow" or following.share < 1.0:
        return _step(policy, experiment, units, now, evidence)
    return None


def _timed_out(
    policy: Policy, experiment: Experiment, verdicts: Sequence[Verdict], now: float, evidence: Sequence[dict[str, Any]]
) -> Move | None:
    if now - max(experiment.progress.started_at, experiment.progress.resumed_at) <= experiment.max_s:
        return None
    why = f"no decision within {experiment.max_s:g} s; " + "; ".join(verdict.why for verdict in verdicts)
    progress = experiment.progress.model_copy(update={"status": "held", "why": why})
    return _moved(policy, experiment, experiment.model_copy(update={"progress": progress}), "hold", why, now, evidence)


def _step(policy: Policy, experiment: Experiment, units: int, now: float, evidence: Sequence[dict[str, Any]]) -> Move:
    progress = experiment.progress.model_copy(update={"step": experiment.progress.step + 1, "entered_at": now})
    why = f"{units:,} units, and nothing that speaks against it"
    return _moved(policy, experiment, experiment.model_copy(update={"progress": progress}), "step", why, now, evidence)


def promote(policy: Policy, name: str, why: str, now: float, evidence: Sequence[dict[str, Any]] = (), arm: str = "") -> Move:
    """Make an experiment's candidate the default arm, and end the experiment.

    Raises:
        PolicyError: it has several candidates and `arm` names none of them.
    """
    experiment, winner = find(policy, name), candidate(policy, name, arm)
    default = policy.variant(policy.default).model_copy(update={"line": winner.line, "version": winner.version})
    variants = tuple(default if variant.name == default.name else variant for variant in policy.variants)
    changed = end(policy.model_copy(update={"variants": variants}), experiment, now)
    after = (
        f"'{default.name}' is version {winner.version}" if winner.version else f"'{default.name}' follows line {winner.line}"
    )
    return Move(
        changed, "promote", name, described(policy, name), after, why, champion=winner.version or 0, evidence=evidence
    )  # fmt: skip


def candidate(policy: Policy, name: str, arm: str = "") -> Variant:
    """Return what an experiment tries; raises PolicyError where there are several and `arm` names none of them."""
    return policy.variant(_one_arm(find(policy, name), arm))


def roll_back(policy: Policy, name: str, arm: str, why: str, now: float, evidence: Sequence[dict[str, Any]] = ()) -> Move:
    """Take an arm out of an experiment; its units go to the baseline. Without another arm the experiment ends."""
    experiment = find(policy, name)
    loser = policy.variant(_one_arm(experiment, arm))
    left = {variant: share for variant, share in experiment.shares.items() if variant not in (loser.name, experiment.baseline)}
    before = described(policy, name)
    if any(left.values()):
        shares = dict(experiment.shares) | {loser.name: 0.0}
        if experiment.baseline in shares:
            shares[experiment.baseline] += experiment.shares[loser.name]
        kept = experiment.model_copy(update={"shares": shares})
        changed = revise(policy, _with(policy, kept), now)
    else:
        changed = end(policy, experiment, now)
    after = described(changed, name) or f"'{experiment.baseline}' answers all"
    # A version that answers elsewhere too, as in an A/A test, is not to be rejected.
    rejected = 0 if loser.version in _answering(changed, loser.name) else loser.version or 0
    return Move(changed, "roll back", name, before, after, why, rejected=rejected, evidence=evidence)


def stop(policy: Policy, name: str, why: str, now: float) -> Move:
    """End an experiment; the default arm answers all, and nothing is said of the versions."""
    changed = end(policy, find(policy, name), now)
    return Move(changed, "stop", name, described(policy, name), f"'{policy.default}' answers all", why)


def pause(policy: Policy, name: str, why: str, now: float) -> Move:
    """Stay at this step until it is resumed; what does harm is still rolled back."""
    return _status(policy, name, "paused", "pause", why, now)


def resume(policy: Policy, name: str, why: str, now: float) -> Move:
    """Go on from this step, with its clock and the rollout's begun anew; the books are kept."""
    return _status(policy, name, "running", "resume", why, now)


def find(policy: Policy, name: str) -> Experiment:
    """Return an experiment.

    Raises:
        PolicyError: there is none of this name.
    """
    for experiment in policy.experiments:
        if experiment.name == name:
            return experiment
    there = ", ".join(f"'{experiment.name}'" for experiment in policy.experiments) or "none"
    raise PolicyError(f"no experiment is named '{name[:80]}'; running: {there}")


def _answering(policy: Policy, besides: str) -> set[int | None]:
    """The versions that a policy's arms are pinned to, but for one arm."""
    arms = {policy.default, *(arm for one in policy.experiments for arm in (*one.shares, one.baseline))} - {besides}
    return {variant.version for variant in policy.variants if variant.name in arms}


def outline(policy: Policy) -> str:
    """A policy in one line: the default arm, then the experiments."""
    default = policy.variant(policy.default)
    answers = f"is version {default.version}" if default.version else f"follows line {default.line}"
    experiments = [f"'{experiment.name}' {described(policy, experiment.name)}" for experiment in policy.experiments]
    return "; ".join([f"'{default.name}' {answers}", *experiments])


def described(policy: Policy, name: str) -> str:
    """Where an experiment is, in words; empty if there is none."""
    experiment = next((experiment for experiment in policy.experiments if experiment.name == name), None)
    if experiment is None:
        return ""
    arms = ", ".join(
        f"'{arm}' (version {version}) {share:.4g}" if (version := policy.variant(arm).version) else f"'{arm}' {share:.4g}"
        for arm, share in experiment.shares.items()
    )
    where = f", step {experiment.progress.step + 1} of {len(experiment.steps)}" if experiment.steps else ""
    return f"{experiment.kind} {arms}{where}, {experiment.progress.status}"


def _status(policy: Policy, name: str, status: Literal["running", "paused"], action: Action, why: str, now: float) -> Move:
    experiment = find(policy, name)
    if experiment.progress.status == status:
        raise PolicyError(f"experiment '{name}' is {status} already")
    again = {"entered_at": now, "resumed_at": now} if status == "running" else {}
    progress = experiment.progress.model_copy(update={"status": status, "why": why, **again})
    return _moved(policy, experiment, experiment.model_copy(update={"progress": progress}), action, why, now, ())


def _moved(
    policy: Policy,
    before: Experiment,
    after: Experiment,
    action: Action,
    why: str,
    now: float,
    evidence: Sequence[dict[str, Any]],
) -> Move:
    changed = revise(policy, _with(policy, after), now, moved=after.name)
    return Move(
        changed, action, before.name, described(policy, before.name), described(changed, before.name), why, evidence=evidence
    )  # fmt: skip


def _with(policy: Policy, changed: Experiment) -> Policy:
    experiments = tuple(changed if one.name == changed.name else one for one in policy.experiments)
    return policy.model_copy(update={"experiments": experiments})


def end(policy: Policy, gone: Experiment, now: float) -> Policy:
    """Return the policy without an experiment, and without the variants that nothing else needs."""
    experiments = tuple(one for one in policy.experiments if one.name != gone.name)
    needed = {policy.default, *policy.forced.values(), *(arm for one in experiments for arm in (*one.shares, one.baseline))}
    variants = tuple(one for one in policy.variants if one.name in needed or one.name not in gone.shares)
    return revise(policy, policy.model_copy(update={"experiments": experiments, "variants": variants}), now)


def _one_arm(experiment: Experiment, arm: str) -> str:
    arms = [variant for variant in experiment.shares if variant != experiment.baseline]
    if not arm and len(arms) == 1:
        return arms[0]
    if arm not in arms:
        raise PolicyError(f"experiment '{experiment.name}': name one of its arms {', '.join(arms)}")
    return arm
