"""One request's plan: which arm answers a unit, how likely that was, and who shadows it."""

from typing import NamedTuple

from router.experiments import KINDS
from store.policy import Policy


class Plan(NamedTuple):
    """`shadows` pairs each shadowing variant with its experiment."""

    variant: str
    propensity: float
    experiment: str
    shadows: tuple[tuple[str, str], ...]


class Planner:
    """A policy made ready to plan with. Immutable: a changed policy is a new planner."""

    def __init__(self, policy: Policy) -> None:
        self._experiments = [(experiment.name, KINDS[experiment.kind](experiment)) for experiment in policy.experiments]
        self._default = Plan(policy.default, 1.0, "", ())

    def plan(self, unit: str) -> Plan:
        if not self._experiments:
            return self._default
        plan = self._default
        shadows: tuple[tuple[str, str], ...] = ()
        for name, experiment in self._experiments:
            arm = experiment.assign(unit) if not plan.experiment else None
            if arm is not None:
                plan = Plan(arm.variant, arm.propensity, name, ())
            shadows += tuple((variant, name) for variant in experiment.shadows(unit))
        shadows = tuple(shadow for shadow in shadows if shadow[0] != plan.variant)
        return plan._replace(shadows=shadows) if shadows else plan
