"""One request's plan: which arm answers a unit, how likely that was, where it counts, and who shadows it."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from router.assignment import SLOTS, encoded, slots
from router.experiments import KINDS
from router.targeting import Request, compiled
from store.policy import Experiment, Policy, Slice

HOLDOUT = "holdout"
"""What units that are kept out of all experiments are logged with."""

_NOTHING: Mapping[str, Any] = {}


class Plan(NamedTuple):
    """Which variant answers.

    Attributes:
        propensity: the probability of this choice over the randomisation, 0 where nothing was random (a forced arm): such
            predictions are in no statistics.
        experiments: those in which the prediction counts, each with the answering variant as its arm.
        shadows: each shadowing variant with its experiment.
    """

    variant: str
    propensity: float
    experiments: tuple[str, ...] = ()
    shadows: tuple[tuple[str, str], ...] = ()


class _Member:
    """An experiment of a layer, ready to assign; `bit` is its own in a set of experiments."""

    def __init__(self, experiment: Experiment, bit: int) -> None:
        self.name = experiment.name
        self.assign = KINDS[experiment.kind](experiment).assign
        self.takes: Request | None = compiled(experiment.target) if experiment.target else None
        self.traffic = experiment.traffic
        self.bit = bit
        self.interleaving: Interleaving | None = None
        if experiment.kind == "interleave":
            others = tuple(arm for arm in experiment.shares if arm != experiment.baseline)
            self.interleaving = Interleaving(experiment.name, (experiment.baseline, *others), experiment.strategy)
        total = sum(piece.end - piece.start for piece in experiment.slices)
        self.shares: dict[str, float] = {}
        for piece in experiment.slices:
            self.shares[piece.owner] = self.shares.get(piece.owner, 0.0) + (piece.end - piece.start) / total


class _Layer:
    """Experiments that exclude each other; one that is alone and takes all needs no slot of its layer."""

    def __init__(self, name: str, slices: tuple[Slice, ...], members: Mapping[str, _Member]) -> None:
        self.members = list(members.values())
        self._slot = slots(f"layer:{name}")
        self._starts = [piece.start for piece in slices]
        self._ends = [piece.end for piece in slices]
        self._owners = [members[piece.owner] for piece in slices]
        whole = len(slices) == 1 and slices[0].end - slices[0].start == SLOTS
        self._alone = self._owners[0] if whole else None

    def owner(self, unit: bytes) -> _Member | None:
        if self._alone is not None:
            return self._alone
        place = self._slot(unit)
        index = bisect_right(self._starts, place) - 1
        return self._owners[index] if index >= 0 and place < self._ends[index] else None

    def choose(self, unit: bytes, out: int) -> tuple[str, str] | None:
        """Return the unit's experiment and arm; `out` has the bits of experiments that do not take it."""
        member = self.owner(unit)
        if member is None or out & member.bit:
            return None
        arm = member.assign(unit)
        return (member.name, arm.variant) if arm is not None else None


class Interleaving(NamedTuple):
    """A list that several variants are to draft together, the baseline first."""

    experiment: str
    rankers: tuple[str, ...]
    strategy: str


class Planner:
    """A policy made ready to plan with. Immutable: a changed policy is a new planner.

    Layers are assigned independently, and one of them must answer: the first whose arm is not the default one. A prediction
    counts in an experiment only if all other layers gave it the default arm. So both arms of every experiment are compared
    on the same kind of units, and nobody's effect is mixed with another's.
    """

    def __init__(self, policy: Policy) -> None:
        self._default = policy.default
        self._plain = Plan(policy.default, 1.0)
        self._forced = {unit: Plan(variant, 0.0) for unit, variant in policy.forced.items()}
        self._holdout = policy.holdout
        self._held_slots = policy.holdout * SLOTS
        members: dict[str, dict[str, _Member]] = {}
        self._shadowing: list[tuple[str, Any, Request | None]] = []
        for place, experiment in enumerate(policy.experiments):
            kind = KINDS[experiment.kind]
            if kind.answers:
                members.setdefault(experiment.layer, {})[experiment.name] = _Member(experiment, 1 << place)
            else:
                takes = compiled(experiment.target) if experiment.target else None
                self._shadowing.append((experiment.name, kind(experiment).shadows, takes))
        self._layers = [_Layer(name, policy.layers[name], inside) for name, inside in members.items()]
        everyone = [member for layer in self._layers for member in layer.members]
        self._targeted = [(member.bit, member.takes) for member in everyone if member.takes is not None]
        self._interleaves = any(member.interleaving is not None for member in everyone)
        self._idle = not (self._layers or self._shadowing or self._forced or self._holdout)
        self.asks_headers = any(rule.by == "header" for e in policy.experiments for rule in e.target)
        self._held_slot = slots(HOLDOUT)
        self._held = Plan(self._default, self._propensity(self._default, 0), (HOLDOUT,))
        self._made: dict[Any, Plan] = {}

    def plan(self, unit: str, features: Mapping[str, Any] = _NOTHING, headers: Mapping[str, str] = _NOTHING) -> Plan:
        """Plan one prediction. `headers` are those of its request, by lower-case name."""
        if self._idle:
            return self._plain
        if self._forced and unit in self._forced:
            return self._forced[unit]
        key = encoded(unit)
        if self._holdout and self._held_slot(key) < self._held_slots:
            return self._held
        plan = self._answering(unit, key, features, headers)
        return self._shadowed(plan, unit, key, features, headers) if self._shadowing else plan

    def _answering(self, unit: str, key: bytes, features: Mapping[str, Any], headers: Mapping[str, str]) -> Plan:
        out = 0
        for bit, takes in self._targeted:
            if not takes(unit, features, headers):
                out |= bit
        choices = (out, *[layer.choose(key, out) for layer in self._layers])
        plan = self._made.get(choices)
        if plan is None:
            plan = self._made[choices] = self._make(choices[1:], out)
        return plan

    def _shadowed(self, plan: Plan, unit: str, key: bytes, features: Mapping[str, Any], headers: Mapping[str, str]) -> Plan:
        shadows: list[tuple[str, str]] = []
        for name, of, takes in self._shadowing:
            if takes is None or takes(unit, features, headers):
                shadows += [(variant, name) for variant in of(key) if variant != plan.variant]
        return Plan(plan.variant, plan.propensity, plan.experiments, tuple(shadows)) if shadows else plan

    def interleaved(
        self, unit: str, features: Mapping[str, Any] = _NOTHING, headers: Mapping[str, str] = _NOTHING
    ) -> Interleaving | None:
        """Return who drafts this unit's lists together; None where one variant ranks, as `plan` says."""
        if not self._interleaves or unit in self._forced:
            return None
        key = encoded(unit)
        if self._holdout and self._held_slot(key) < self._held_slots:
            return None
        for layer in self._layers:
            member = layer.owner(key)
            if member is not None and member.interleaving is not None:
                return member.interleaving if member.takes is None or member.takes(unit, features, headers) else None
        return None

    def forced(self, variant: str) -> Plan:
        """Plan a request that asks for a variant itself."""
        return Plan(variant, 0.0)

    def _make(self, choices: Sequence[tuple[str, str] | None], out: int) -> Plan:
        taken = [choice for choice in choices if choice is not None]
        moved = [choice for choice in taken if choice[1] != self._default]
        variant = moved[0][1] if moved else self._default
        counted = taken if not moved else moved if len(moved) == 1 else []
        return Plan(variant, self._propensity(variant, out), tuple(name for name, _ in counted))

    def _propensity(self, variant: str, out: int) -> float:
        """The probability that a unit which the experiments `out` do not take is answered by `variant`."""
        chosen, default = 0.0, 1.0
        for layer in self._layers:
            shares: dict[str, float] = {}
            for member in layer.members:
                if not out & member.bit:
                    for arm, share in member.shares.items():
                        shares[arm] = shares.get(arm, 0.0) + member.traffic * share
            moved = sum(share for arm, share in shares.items() if arm != self._default)
            chosen += default * shares.get(variant, 0.0) if variant != self._default else 0.0
            default *= 1.0 - moved
        in_play = default if variant == self._default else chosen
        held = 1.0 if variant == self._default else 0.0
        return self._holdout * held + (1.0 - self._holdout) * in_play
