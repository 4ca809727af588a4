"""No group of rows may get worse, though all together do not: declared slices, and every feature's commonest values.

A slice is the rows of one value of one feature, or a quarter of a number's range. All of them are looked at, each at its part
of the level (Bonferroni), so that a spec with many features rejects no more good versions than one with few.

Something like Simpson's paradox is said in words, as evidence: a version may be better overall and yet worse for most of the
values of a feature. It cannot be worse for all of them, as all are judged on the same rows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from store.schema import FeatureField, Value
from trainer.gates.gate import Case, Finding, allowance, enough, surely_above

VALUES = 8
"""How many of a feature's values are looked at, the commonest first."""
LEAST = 50
"""How many rows a slice has at least."""

Groups = dict[str, np.ndarray]
"""By name, which rows [n] are in a slice."""


class Slices:
    name = "slices"

    def applies(self, case: Case) -> bool:
        return case.settings.slices is not None and enough(case)

    def judge(self, case: Case) -> Finding:
        found = dict(_slices(case))
        every = [(feature, value, rows) for feature, groups in found.items() for value, rows in groups.items()]
        alpha = case.alpha / max(1, len(every))
        worse = case.losses - case.reference
        problems: list[tuple[float, str]] = []
        for feature, value, rows in every:
            margin = (case.settings.slices or 0.0) * float(case.reference[rows].mean()) + allowance(case, 0.01)
            if surely_above(worse[rows], margin, alpha):
                before, loss = float(case.reference[rows].mean()), float(case.losses[rows].mean())
                said = f"worse where {feature} is {value}: loss {loss:.4g} after {before:.4g} on {int(rows.sum()):,} rows"
                problems.append((before - loss, said))
        evidence = {"slices": len(every), "paradox": [said for one in found.items() if (said := _mostly_worse(*one, worse))]}
        return Finding(min(problems)[1] if problems else "", bool(problems), evidence)


def groups(field: FeatureField, values: Sequence[Value]) -> Groups:
    """Return the slices of a feature: its commonest values, or the quarters of a number."""
    if field.kind in ("category", "boolean"):
        common = [value for value, count in Counter(values).most_common(VALUES) if count >= LEAST]
        return {repr(value): np.array([one == value for one in values]) for value in common}
    if field.kind != "number":
        return {}
    numbers = np.array([np.nan if one is None else float(one) for one in values])
    if np.isnan(numbers).all():
        return {}
    edges = np.unique(np.nanquantile(numbers, [0.25, 0.5, 0.75]))
    quarter = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="right"))
    bounds = [-np.inf, *edges.tolist(), np.inf]
    return {
        f"in [{bounds[at]:.4g}, {bounds[at + 1]:.4g})": rows
        for at in range(len(edges) + 1)
        if (rows := quarter == at).sum() >= LEAST
    }


def _slices(case: Case) -> Iterator[tuple[str, Groups]]:
    for at, field in enumerate(case.record.features.fields):
        if case.settings.found_slices or field.name in case.record.slices:
            yield field.name, groups(field, [row[at] for row in case.rows])


def _mostly_worse(feature: str, found: Groups, worse: np.ndarray) -> str:
    means = [float(worse[rows].mean()) for rows in found.values()]
    bad = sum(mean > 0.0 for mean in means)
    if len(means) < 3 or worse.mean() >= 0.0 or bad <= len(means) / 2:
        return ""
    return f"better overall, yet worse for {bad} of {len(means)} values of {feature}"
