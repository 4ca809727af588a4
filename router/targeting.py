"""Which requests an experiment is for: rules on the unit, a feature, or a header."""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from typing import Any

from store.policy import Rule

Request = Callable[[str, Mapping[str, Any], Mapping[str, str]], bool]
"""Tells of a unit, its features and the request's headers (lower-case names) whether it takes part."""


def compiled(rules: Sequence[Rule]) -> Request:
    """Return the conjunction of the rules.

    >>> asia = compiled([Rule(by="feature", name="country", values=("VN", "JP"))])
    >>> asia("u", {"country": "VN"}, {}), asia("u", {"country": "SE"}, {}), asia("u", {}, {})
    (True, False, False)
    """
    tests = [(rule.by, rule.name.lower() if rule.by == "header" else rule.name, _test(rule)) for rule in rules]

    def fulfilled(unit: str, features: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
        for by, name, test in tests:
            value = unit if by == "unit" else features.get(name) if by == "feature" else headers.get(name)
            if value is None or not test(value):
                return False
        return True

    return fulfilled


def problem(rule: Rule) -> str | None:
    """Say what is wrong with a rule, or None."""
    if (rule.by == "unit") == bool(rule.name):
        return "a rule by unit has no name" if rule.name else f"a rule by {rule.by} needs the {rule.by}'s name"
    if not rule.values and rule.pattern is None and rule.at_least is None and rule.below is None:
        return "a rule needs values, a pattern, at_least or below"
    if rule.at_least is not None and rule.below is not None and rule.at_least >= rule.below:
        return f"nothing is at least {rule.at_least:g} and below {rule.below:g}"
    return None


def _test(rule: Rule) -> Callable[[Any], bool]:
    values = frozenset(rule.values)
    # fnmatch's own cache and case rules differ by platform; its translation does not, and never backtracks for ever.
    pattern = re.compile(translate(rule.pattern)) if rule.pattern is not None else None
    low, high = rule.at_least, rule.below

    def test(value: Any) -> bool:
        if values and (isinstance(value, list) or value not in values):
            return False
        if pattern is not None and not (isinstance(value, str) and pattern.match(value)):
            return False
        if low is None and high is None:
            return True
        number = _number(value)
        return number is not None and (low is None or number >= low) and (high is None or number < high)

    return test


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
