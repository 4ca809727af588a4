"""Lines that learn the same outcomes, compared by their progressive losses: each micro-batch scored before it was learned."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from router.statistics import AsymptoticSequence, Difference, Moments
from store.policy import MAIN
from store.protocols import Version

ALPHA, N_OPT = 0.05, 200


@dataclass(frozen=True, slots=True)
class Compared:
    """A line beside main over the micro-batches that both scored, `outcomes` in all. `difference` is the line's mean loss minus
    main's, between `low` and `high` with 95 % at every moment (None: nothing is known yet); below zero the line is better."""

    micro_batches: int
    outcomes: int
    loss: float
    main_loss: float
    difference: float
    low: float | None
    high: float | None

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def compare(versions: Sequence[Version], line: str, born: int) -> Compared | None:
    """Compare a line, the one that came with revision `born`, with main over the newest micro-batches; None without any.

    What a gate took back is in neither, as its loss is not kept. A micro-batch is one unit of the confidence sequence
    (`router.statistics.AsymptoticSequence`): outcomes of one time are alike.

    Args:
        versions: of the model, newest first.
    """
    main, other = dict[str, Version](), dict[str, Version]()
    for version in versions:
        if not version.outcomes or "loss" not in version.metrics:
            continue
        # What main was given in a promotion says the loss of another line.
        if version.line == MAIN and "promoted" not in version.lineage:
            main.setdefault(version.position, version)
        elif version.line == line and version.lineage.get("line", {}).get("born") == born:
            other.setdefault(version.position, version)
    pairs = [(other[place], main[place]) for place in other.keys() & main.keys()]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: pair[0].number)
    rows = sum(one.outcomes for one, _ in pairs)
    loss, main_loss = (sum(pair[which].metrics["loss"] * pair[0].outcomes for pair in pairs) / rows for which in (0, 1))
    half = _half_width([(one.metrics["loss"] - two.metrics["loss"], one.outcomes) for one, two in pairs], loss - main_loss)
    low, high = (loss - main_loss + sign * half if math.isfinite(half) else None for sign in (-1.0, 1.0))
    return Compared(len(pairs), rows, loss, main_loss, loss - main_loss, low, high)


def _half_width(differences: Sequence[tuple[float, int]], estimate: float) -> float:
    """Half the width of the sequence of a mean that is weighed by outcomes, by the delta method."""
    if len(differences) < 2:
        return math.inf
    mean_rows = sum(rows for _, rows in differences) / len(differences)
    moments = Moments.of([[(difference - estimate) * rows / mean_rows] for difference, rows in differences])
    error = math.sqrt(float(moments.covariance[0, 0]) / moments.n)
    low, high = AsymptoticSequence(ALPHA, N_OPT).interval(Difference(estimate, error, moments.n))
    return (high - low) / 2
