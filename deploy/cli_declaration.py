"""From what stands on the command line to the plain data of an experiment. Whether it makes sense, the platform says.

Raises ValueError, in words that name the option, for what cannot be read.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from store.policy import DEFAULT_STEPS

_NUMBER = (int, float)
_WILD = re.compile(r"[*?\[]")
_CONDITION = re.compile(r"([^=<>]+)(>=|<|=)(.+)", re.DOTALL)
_TARGET = "expected unit:PATTERN, feature:NAME=VALUE,VALUE, feature:NAME>=NUMBER, feature:NAME<NUMBER or header:NAME=VALUE"


def variants_of(arms: Sequence[str]) -> list[dict[str, Any]]:
    """Return the variants that `--arm NAME=VERSION` and `--arm NAME=LINE` declare.

    >>> variants_of(["candidate=12", "wide=wide-and-deep"])
    [{'name': 'candidate', 'version': 12}, {'name': 'wide', 'line': 'wide-and-deep'}]
    """
    variants: list[dict[str, Any]] = []
    for arm in arms:
        name, equals, follows = (part.strip() for part in arm.partition("="))
        if not (name and equals and follows):
            raise ValueError(
                f"--arm '{arm}': expected NAME=VERSION or NAME=LINE; an arm that is there already needs --share alone"
            )
        if any(name == variant["name"] for variant in variants):
            raise ValueError(f"--arm: '{name}' is there twice")
        pinned = follows.isascii() and follows.isdigit() and len(follows) <= 18
        variants.append({"name": name} | ({"version": int(follows)} if pinned else {"line": follows}))
    return variants


def shares_of(kind: str, baseline: str, arms: Sequence[str], given: Sequence[str], steps: bool) -> dict[str, float]:
    """Return the shares that `--share NAME=FRACTION` gives, or for the only arm `--share FRACTION`, and what follows of them.

    A shadow scores everything if nothing else is said; of an experiment whose arms divide the units, what is left is the
    baseline's, and if nothing is said, all get the same.

    >>> shares_of("canary", "main", ["new"], ["0.05"], steps=False)
    {'new': 0.05}
    >>> shares_of("ab", "main", ["new"], [], steps=False)
    {'main': 0.5, 'new': 0.5}
    """
    if steps and given:
        raise ValueError("--share and --steps: the steps say what the candidate gets")
    shares: dict[str, float] = {}
    for text in given:
        name, share = _share(text, arms)
        if name in shares:
            raise ValueError(f"--share: '{name}' is there twice")
        shares[name] = share
    names = list(dict.fromkeys((*arms, *shares)))
    if not names:
        raise ValueError("name an arm: --arm candidate=VERSION, or --share NAME=FRACTION for one that is there already")
    if kind == "shadow":
        return {name: shares.get(name, 1.0) for name in names}
    if kind == "canary":
        return _of_canary(names, shares, steps)
    return _divided(dict.fromkeys((baseline, *names)), shares, baseline)


def _of_canary(names: Sequence[str], shares: Mapping[str, float], steps: bool) -> dict[str, float]:
    if missing := [name for name in names if name not in shares and not steps]:
        raise ValueError(f"say how much '{missing[0]}' gets: --share {missing[0]}=0.05, or --steps 0.01,0.05,0.25,0.5")
    return {name: shares.get(name, 0.0) for name in names}  # with steps, the share is that of the first


def _divided(names: Mapping[str, Any], shares: Mapping[str, float], baseline: str) -> dict[str, float]:
    if not shares:
        return dict.fromkeys(names, 1.0 / len(names))
    missing = [name for name in names if name not in shares]
    if missing and missing != [baseline]:
        raise ValueError(f"say how much '{missing[-1]}' gets: --share {missing[-1]}=0.1; what is left goes to '{baseline}'")
    left = round(1.0 - sum(shares.values()), 9)
    if missing and left < 0.0:
        raise ValueError(f"--share: the arms get {sum(shares.values()):g} of the units, which is more than 1")
    return {name: shares.get(name, left) for name in names}


def _share(text: str, arms: Sequence[str]) -> tuple[str, float]:
    name, equals, share = (part.strip() for part in text.rpartition("="))
    if not equals:
        if len(arms) != 1:
            raise ValueError(f"--share '{text}': expected NAME=FRACTION; without a name it is for the only --arm")
        name = arms[0]
    elif not name:
        raise ValueError(f"--share '{text}': expected NAME=FRACTION")
    return name, _fraction(share, f"--share '{text}'")


def _fraction(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{where}: expected a number from 0 to 1, such as 0.05")
    return value


def steps_of(text: str | None, min_s: float | None, min_units: int | None) -> list[dict[str, Any]]:
    """Return the steps that `--steps` names: shares that the candidate answers, `shadow` (or `shadow:SHARE`) before them.

    Without `--steps`, but with a minimum, they are the usual ones with that minimum; with neither, none.

    >>> steps_of("shadow,0.05", min_s=30.0, min_units=None)
    [{'kind': 'shadow', 'share': 1.0, 'min_s': 30.0}, {'kind': 'canary', 'share': 0.05, 'min_s': 30.0}]
    """
    least = _given(min_s=min_s, min_units=min_units)
    if text is None:
        return (
            [step.model_dump(include={"kind", "share", "min_s", "min_units"}) | least for step in DEFAULT_STEPS]
            if least
            else []
        )
    steps: list[dict[str, Any]] = []
    for part in text.split(","):
        kind, _, share = part.strip().partition(":") if part.strip().startswith("shadow") else ("canary", ":", part.strip())
        where = f"--steps '{text}'"
        if kind not in ("shadow", "canary"):
            raise ValueError(f"{where}: expected shares such as 0.01,0.05,0.25, or 'shadow' before them, not '{part.strip()}'")
        fraction = 1.0 if kind == "shadow" and not share else _fraction(share, where)
        if not fraction:
            raise ValueError(f"{where}: a step's share is above 0")
        steps.append({"kind": kind, "share": fraction} | least)
    return steps


def rules_of(targets: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rules that `--target` gives; all must hold.

    >>> rules_of(["feature:country=VN,JP", "unit:staff-*"])
    [{'by': 'feature', 'name': 'country', 'values': ['VN', 'JP']}, {'by': 'unit', 'pattern': 'staff-*'}]
    >>> rules_of(["feature:age>=18"])
    [{'by': 'feature', 'name': 'age', 'at_least': 18.0}]
    """
    return [_rule(target) for target in targets]


def _rule(target: str) -> dict[str, Any]:
    by, colon, condition = target.partition(":")
    if not colon or by not in ("unit", "feature", "header"):
        raise ValueError(f"--target '{target}': {_TARGET}")
    if by == "unit":
        return {"by": by} | _accepted(condition, target, numbers=False)
    found = _CONDITION.fullmatch(condition)
    if found is None or not found[1].strip():
        raise ValueError(f"--target '{target}': {_TARGET}")
    name, sign, wanted = found[1].strip(), found[2], found[3]
    if sign != "=":
        return {"by": by, "name": name, {">=": "at_least", "<": "below"}[sign]: _bound(wanted, target)}
    return {"by": by, "name": name} | _accepted(wanted, target, numbers=by == "feature")


def _accepted(text: str, target: str, numbers: bool) -> dict[str, Any]:
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise ValueError(f"--target '{target}': {_TARGET}")
    if len(values) == 1 and _WILD.search(values[0]):
        return {"pattern": values[0]}
    if any(_WILD.search(value) for value in values):
        raise ValueError(f"--target '{target}': either values, or one pattern")
    accepted: list[str | bool | float] = []
    for value in values:
        accepted.append(value)
        if numbers and (number := _number(value)) is not None:
            accepted.append(number)  # the feature may be a word that looks like a number, or a number
    return {"values": accepted}


def _number(text: str) -> bool | float | None:
    try:
        value: Any = json.loads(text)
    except ValueError:
        return None
    if isinstance(value, bool):
        return value
    return float(value) if isinstance(value, _NUMBER) and math.isfinite(value) else None


def _bound(text: str, target: str) -> float:
    number = _number(text.strip())
    if number is None or isinstance(number, bool):
        raise ValueError(f"--target '{target}': '{text.strip()}' is no number")
    return number


def judging_of(
    metric: str | None, better: bool, margin: float | None, window_s: float | None, labels_s: float | None
) -> dict[str, Any]:
    """Return what the options say of judging; what they do not say, the platform's defaults do."""
    said = _given(metric=metric, margin=margin, window_s=window_s, labels_s=labels_s)
    return said | ({"better": True} if better else {})


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def from_file(read: Mapping[str, Any], name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return experiment and variants of a file: the experiment's object, or `{"experiment": …, "variants": […]}`."""
    whole: Mapping[str, Any] = read if "experiment" in read else {"experiment": read}
    if unknown := set(whole) - {"experiment", "variants"}:
        raise ValueError(f"the file has '{min(unknown)}' beside 'experiment' and 'variants'")
    experiment: Any = whole["experiment"]
    variants: Any = whole.get("variants", [])
    if not isinstance(experiment, dict) or not isinstance(variants, list):
        raise ValueError("in the file, 'experiment' is an object, and 'variants' a list")
    declared: dict[str, Any] = {"name": name, **experiment}
    if declared["name"] != name:
        raise ValueError(f"the file's experiment is named '{declared['name']}', not '{name}'")
    return declared, variants
