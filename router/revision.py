"""From one policy to the next: what an operator may ask for, and how few units move."""

from collections import Counter
from collections.abc import Iterable

from router.assignment import SLOTS, allocate
from router.experiments import KINDS
from router.planner import HOLDOUT
from router.targeting import problem
from store.errors import PolicyError
from store.policy import Experiment, Policy, Progress, Slice


def revise(current: Policy, wanted: Policy, now: float = 0.0, moved: str = "") -> Policy:
    """Return the policy to install: `wanted` with salts and baselines filled in, and slots kept where shares allow.

    Args:
        moved: the experiment that the platform itself moves: its progress, and what was tried, are taken from `wanted`. From
            anybody else they are not: they are the platform's to keep.

    Raises:
        PolicyError: it names unknown variants or kinds, repeats names, has impossible shares or rules, or experiments that get
            into each other's way.
    """
    variants = [variant.name for variant in wanted.variants]
    _unique("variant", variants)
    _unique("experiment", (experiment.name for experiment in wanted.experiments))
    _known(wanted.default, variants, "the default arm")
    for unit, variant in wanted.forced.items():
        _known(variant, variants, f"the forced unit '{unit[:80]}'")
    before = {experiment.name: experiment for experiment in current.experiments}
    experiments = tuple(
        _revised(before.get(e.name), e if e.name == moved else _placed(before.get(e.name), e, now), wanted.default, variants)
        for e in wanted.experiments
    )
    plan = wanted.rollout
    if plan is not None and wanted.variant(wanted.default).version is None:
        raise PolicyError(
            f"rollout: the default arm '{wanted.default}' follows a line, so new versions answer before they are tried; pin it "
            "to a version first"
        )
    kept = {} if moved else {"tried": current.tried, "tried_at": current.tried_at}
    layers = _layers(current, wanted.default, experiments)
    return wanted.model_copy(update={"experiments": experiments, "layers": layers, **kept})


def _placed(before: Experiment | None, wanted: Experiment, now: float) -> Experiment:
    progress = before.progress if before is not None else Progress(entered_at=now, started_at=now)
    return wanted.model_copy(update={"progress": progress})


def _stepped(wanted: Experiment) -> Experiment:
    """A rollout's kind, share and target are those of its step.

    Raises:
        PolicyError: it has no candidate, or several.
    """
    if not wanted.steps:
        return wanted
    if len(wanted.shares) != 1:
        raise PolicyError(f"experiment '{wanted.name}': with steps it has one candidate in shares")
    [candidate] = wanted.shares
    progress = wanted.progress.model_copy(update={"step": min(wanted.progress.step, len(wanted.steps) - 1)})
    step = wanted.steps[progress.step]
    target = step.target if step.target is not None else wanted.target
    return wanted.model_copy(
        update={"kind": step.kind, "shares": {candidate: step.share}, "target": target, "progress": progress}
    )


def _revised(before: Experiment | None, wanted: Experiment, default: str, variants: list[str]) -> Experiment:
    where = f"experiment '{wanted.name}'"
    if wanted.name == HOLDOUT:
        raise PolicyError(f"{where}: this name is taken by the units that are held out of all experiments")
    if wanted.kind not in KINDS:
        raise PolicyError(f"{where}: kind '{wanted.kind}' is not one of {', '.join(KINDS)}")
    wanted = _stepped(wanted)
    kind = KINDS[wanted.kind]
    wanted = wanted.model_copy(update={"baseline": wanted.baseline or default})
    _known(wanted.baseline, variants, f"{where}: the baseline")
    for variant, share in wanted.shares.items():
        _known(variant, variants, where)
        if not 0.0 <= share <= 1.0:
            raise PolicyError(f"{where}: the share of '{variant}' is {share:g}, it must be between 0 and 1")
    if wrong := kind.check(wanted) or next(filter(None, map(problem, wanted.target)), None):
        raise PolicyError(f"{where}: {wrong}")
    salt = wanted.salt or (before.salt if before else wanted.name)
    kept = before.slices if before and before.salt == salt and before.kind == wanted.kind else ()
    return wanted.model_copy(update={"salt": salt, "slices": allocate(kept, kind.split(wanted))})


def _layers(current: Policy, default: str, experiments: Iterable[Experiment]) -> dict[str, tuple[Slice, ...]]:
    """Return each layer's slots by experiment.

    Raises:
        PolicyError: experiments of one layer want more units than there are, or those of several layers, which meet in some
            units, have a baseline that is not the default arm.
    """
    by_layer: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        if KINDS[experiment.kind].answers:
            by_layer.setdefault(experiment.layer, []).append(experiment)
    for layer, members in by_layer.items():
        total = sum(member.traffic for member in members)
        if round(total * SLOTS) > SLOTS:
            claims = ", ".join(f"'{member.name}' {member.traffic:.0%}" for member in members)
            raise PolicyError(
                f"layer '{layer}': {claims} of the same units make {total:.0%}; lower their traffic, or give them layers of "
                "their own, where they are assigned independently"
            )
        for member in members:
            if len(by_layer) > 1 and member.baseline != default:
                raise PolicyError(
                    f"experiment '{member.name}' in layer '{layer}' meets experiments of other layers, so its baseline must "
                    f"be the default arm '{default}', not '{member.baseline}'; or put them into one layer"
                )
    return {
        layer: allocate(current.layers.get(layer, ()), {member.name: member.traffic for member in members})
        for layer, members in by_layer.items()
    }


def _known(variant: str, variants: Iterable[str], where: str) -> None:
    if variant not in variants:
        raise PolicyError(f"{where}: there is no variant '{variant}' among {', '.join(variants)}")


def _unique(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise PolicyError(f"two {what}s are named '{twice[0]}'")
