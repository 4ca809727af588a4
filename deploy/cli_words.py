"""Numbers, times and rules as people say them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

_UNITS = (("s", 1.0, 100.0), ("min", 60.0, 100.0), ("h", 3600.0, 48.0), ("days", 86_400.0, float("inf")))


def duration(seconds: float) -> str:
    """
    >>> [duration(seconds) for seconds in (0.04, 4.25, 42.3, 150, 7200, 604_800)]
    ['0 s', '4.2 s', '42 s', '2.5 min', '2 h', '7 days']
    """
    seconds = max(0.0, round(seconds, 1))
    name, size, _ = next(unit for unit in _UNITS if seconds < unit[1] * unit[2])
    count = seconds / size
    return f"{count:.0f} {name}" if count >= 10.0 else f"{count:.2g} {name}"


def share(fraction: float) -> str:
    """
    >>> share(0.5), share(0.001), share(1 / 3)
    ('50%', '0.1%', '33.3%')
    """
    return f"{fraction * 100:.3g}%"


def number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def moment(at: float) -> str:
    """A time on this machine's clock."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def listed(words: Sequence[str], last: str = "and") -> str:
    """
    >>> listed(["errors", "timeouts", "loss"])
    'errors, timeouts and loss'
    """
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def arm(name: str, variants: Sequence[Mapping[str, Any]]) -> str:
    """An arm and what it follows: `'new' (version 12)`, `'main' (newest of line main)`."""
    variant = next((one for one in variants if one["name"] == name), None)
    if variant is None:
        return f"'{name}'"
    return f"'{name}' (version {variant['version']})" if variant["version"] else f"'{name}' (newest of line {variant['line']})"


def rule(one: Mapping[str, Any]) -> str:
    """
    >>> rule({"by": "feature", "name": "country", "values": ["VN", "JP"], "pattern": None, "at_least": None, "below": None})
    'feature country is VN or JP'
    """
    wanted: list[str] = []
    if one["values"]:
        said = list(dict.fromkeys(map(_value, one["values"])))  # a number stands beside the word that looks like it
        few = said if len(said) <= 8 else [*said[:7], f"one of {len(said) - 7:,} more"]
        wanted.append(f"is {listed(few, 'or')}")
    if one["pattern"] is not None:
        wanted.append(f"is like {one['pattern']}")
    wanted += [f"is at least {one['at_least']:g}"] if one["at_least"] is not None else []
    wanted += [f"is below {one['below']:g}"] if one["below"] is not None else []
    return f"{one['by']} {one['name']}".rstrip() + " " + " and ".join(wanted)


def _value(value: str | bool | float) -> str:
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else f"{value:g}"


def units_of(experiment: Mapping[str, Any]) -> str:
    """Of which units an experiment speaks."""
    part = f"{share(experiment['traffic'])} of the units" if experiment["traffic"] < 1.0 else "all units"
    return f"{part} whose {listed([rule(one) for one in experiment['target']])}" if experiment["target"] else part


def steps(plan: Sequence[Mapping[str, Any]]) -> str:
    """A rollout's steps: `shadow 100%, 1%, 5% of the units, each for at least 60 s and 100 units`."""
    shares = [("shadow " if step["kind"] == "shadow" else "") + share(step["share"]) for step in plan]
    waits = dict.fromkeys(f"at least {duration(step['min_s'])} and {step['min_units']:,} units" for step in plan)
    each = f"each for {next(iter(waits))}" if len(waits) == 1 else f"for {', '.join(waits)}"
    return f"{', '.join(shares)} of the units, {each}"


def judged(judging: Mapping[str, Any]) -> str:
    """By what a candidate is judged."""
    wanted = "better" if judging["better"] else f"not more than {share(judging['margin'])} worse"
    return f"{judging['metric']} must be {wanted}"
