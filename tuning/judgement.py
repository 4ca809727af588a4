"""What the trials of a search say together: who won, which settings mattered, what each costs."""

import json
from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from store.artefact import open_session
from store.spec import ModelSpec
from trainer.compression.speed import latencies
from trainer.export import golden_inputs
from trainer.learner import Learner
from tuning.result import Cost, Placed, Tried
from tuning.trial import with_settings

_FEWEST = 8
"""Trials, below which importances are noise."""
_ROUNDS = 20


def ranked(tried: Sequence[Tried]) -> list[Tried]:
    """The leaderboard: those that came furthest first, the lowest loss first among them."""
    return sorted(tried, key=lambda one: (-len(one.rungs), one.loss, one.trial))


def importance(tried: Sequence[Tried], seed: int) -> dict[str, float]:
    """Return each setting's share of what a random forest tells of the losses at the first rung, which all trials came to."""
    names = sorted({name for one in tried for name in one.settings})
    losses = np.array([one.rungs[0].loss for one in tried])
    if len(tried) < _FEWEST:
        return {}
    table = np.column_stack([_numbers([one.settings.get(name) for one in tried]) for name in names])
    # By rank: one learner that fails says no more than that it is the worst.
    places = losses.argsort().argsort().astype(float)
    forest = RandomForestRegressor(n_estimators=100, random_state=seed % 2**32).fit(table, places)
    found = permutation_importance(forest, table, places, n_repeats=_ROUNDS, random_state=seed % 2**32)
    means: np.ndarray = found["importances_mean"]  # pyright: ignore[reportAssignmentType]
    worth = np.maximum(means, 0.0)
    shares = worth / worth.sum() if worth.sum() > 0 else worth
    return dict(sorted(zip(names, shares.tolist(), strict=True), key=lambda one: -one[1]))


def _numbers(values: Sequence[object]) -> np.ndarray:
    """Numbers as they are, anything else as its place among all that there are."""
    if all(isinstance(value, int | float) for value in values):
        return np.array(values, dtype=np.float64)
    texts = [json.dumps(value, sort_keys=True) for value in values]
    return np.unique(texts, return_inverse=True)[1].astype(np.float64)


def placed(tried: Sequence[Tried], spec: ModelSpec) -> tuple[Placed, ...]:
    """Return the leaderboard, with costs of those that came to the last rung, measured once for each shape."""
    order, costs = ranked(tried), dict[str, Cost]()
    for one in order:
        if len(one.rungs) == len(order[0].rungs) and _shape(spec, one) not in costs:
            costs[_shape(spec, one)] = cost(Learner(with_settings(spec, one.settings), "cpu"))
    rows = [(one, costs[_shape(spec, one)] if len(one.rungs) == len(order[0].rungs) else None) for one in order]
    points = [(one.loss, known.latency_s) for one, known in rows if known is not None]
    return tuple(
        Placed(tried=one, cost=known, front=known is not None and on_front((one.loss, known.latency_s), points))
        for one, known in rows
    )


def on_front(point: tuple[float, float], points: Sequence[tuple[float, float]]) -> bool:
    """Whether no other point is as low on both axes, and lower on one (Pareto).

    >>> [on_front(one, [(1, 3), (2, 2), (3, 3)]) for one in [(1, 3), (2, 2), (3, 3)]]
    [True, True, False]
    """
    return not any(a <= point[0] and b <= point[1] and (a, b) != point for a, b in points)


def _shape(spec: ModelSpec, one: Tried) -> str:
    return spec.way.altered(one.settings).shape.model_dump_json()


def cost(learner: Learner) -> Cost:
    """Measure what answering by a learner costs."""
    session = open_session(learner.export().onnx, learner.weights())
    took = latencies({"": session}, golden_inputs(learner.record.features))[""][1]
    return Cost(parameters=sum(one.numel() for one in learner.scorer.network.parameters()), latency_s=took)
