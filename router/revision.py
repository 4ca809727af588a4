"""From one policy to the next: what an operator may ask for, and how few units move."""

from collections import Counter
from collections.abc import Iterable

from router.assignment import allocate
from router.experiments import KINDS
from store.errors import PolicyError
from store.policy import Experiment, Policy


def revise(current: Policy, wanted: Policy) -> Policy:
    """Return the policy to install: `wanted` with salts filled in, and slots kept where shares allow.

    Raises:
        PolicyError: it names unknown variants or kinds, repeats names, or has impossible shares.
    """
    variants = [variant.name for variant in wanted.variants]
    _unique("variant", variants)
    _unique("experiment", (experiment.name for experiment in wanted.experiments))
    _known(wanted.default, variants, "the default arm")
    assigning = [e.name for e in wanted.experiments if e.kind == "ab"]
    if len(assigning) > 1:
        raise PolicyError(f"experiments {', '.join(assigning)} all split the same traffic: run one of them at a time")
    before = {experiment.name: experiment for experiment in current.experiments}
    experiments = tuple(_revised(before.get(e.name), e, variants) for e in wanted.experiments)
    return wanted.model_copy(update={"experiments": experiments})


def _revised(before: Experiment | None, wanted: Experiment, variants: list[str]) -> Experiment:
    where = f"experiment '{wanted.name}'"
    if wanted.kind not in KINDS:
        raise PolicyError(f"{where}: kind '{wanted.kind}' is not one of {', '.join(KINDS)}")
    for variant, share in wanted.shares.items():
        _known(variant, variants, where)
        if not 0.0 <= share <= 1.0:
            raise PolicyError(f"{where}: the share of '{variant}' is {share:g}, it must be between 0 and 1")
    if wrong := KINDS[wanted.kind].check(wanted):
        raise PolicyError(f"{where}: {wrong}")
    salt = wanted.salt or (before.salt if before else wanted.name)
    kept = before.slices if before and before.salt == salt and before.kind == wanted.kind else ()
    slices = allocate(kept, wanted.shares) if wanted.kind == "ab" else ()
    return wanted.model_copy(update={"salt": salt, "slices": slices})


def _known(variant: str, variants: Iterable[str], where: str) -> None:
    if variant not in variants:
        raise PolicyError(f"{where}: there is no variant '{variant}' among {', '.join(variants)}")


def _unique(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise PolicyError(f"two {what}s are named '{twice[0]}'")
