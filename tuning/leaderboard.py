"""The page of a search: who won, how the best came to be, what mattered, and what no trial beats in both loss and cost."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from tuning.judgement import on_front
from tuning.report import COLOURS, INK, page, plain, svg, table
from tuning.result import Placed, Result

_TRIED, _DECLARED = COLOURS["stateful"], COLOURS["stateless"]
_FAR = 2.0
"""Losses above so many times the declared way's are not drawn: one learner that failed would leave no room for the others."""


def write_tuning(path: Path, result: Result) -> None:
    """Write the page of `tidemill tune`."""
    first, last = (datetime.fromtimestamp(moment, UTC) for moment in (result.since, result.until))
    rows = [figures(place, one) for place, one in enumerate(result.leaderboard, 1)]
    head = ("place", "trial", "micro-batches", "progressive loss", "parameters", "µs a row", "front", "settings")
    body = f"""<p class="lead">{escape(_lead(result))}</p>
<h2>Best so far</h2>{svg(_best_so_far(result))}
<p class="note">Each point is a trial that learned all {result.rungs[-1]:,} micro-batches, in the order in which they were
begun; the line is the best of them so far, the dashed one the declared way. {escape(_left_out(result))}</p>
<h2>What mattered</h2>{_importance(result)}
<h2>Loss against cost</h2>{svg(_fronts(result))}
<p class="note">Filled: no other trial is as good on both axes and better on one (Pareto). The time is the median for one
row, by ONNX Runtime on one thread.</p>
<h2>Leaderboard</h2><div class="words">{table(head, rows)}</div>
<p class="note">Trials stop to be compared after {", ".join(f"{one:,}" for one in result.rungs)} micro-batches. Losses are
progressive: each outcome is scored before it is learned. The last {result.batches - result.rungs[-1]:,} of
{result.batches:,} micro-batches no trial saw; there the winner and the declared way were compared, both having
learned all before.</p>{_failed(result)}"""
    subtitle = f"{result.outcomes:,} outcomes, {first:%d %B %Y} to {last:%d %B %Y}; {len(result.leaderboard)} trials"
    path.write_text(page(f"A better way to learn: {result.plan.model}", subtitle, body), encoding="utf-8")


def figures(place: int, one: Placed) -> tuple[str, ...]:
    """A trial's row as people read it."""
    tried, cost = one.tried, one.cost
    return (
        str(place), str(tried.trial), f"{tried.rungs[-1].batches:,}", f"{tried.loss:.4f}",
        f"{cost.parameters:,}" if cost else "", f"{cost.latency_s * 1e6:.0f}" if cost else "", "yes" if one.front else "",
        tried.words,
    )  # fmt: skip


def _lead(result: Result) -> str:
    held = result.heldout
    better = held.production - held.winner
    said = f"On {held.judged:,} outcomes that no trial has seen, trial {result.winner.trial} has a progressive loss of "
    said += (
        f"{held.winner:.4f}, {abs(better):.4f} {'less' if better > 0 else 'more'} than the declared way's {held.production:.4f}"
    )
    said += f"; it is version {result.version} on line {result.plan.line}." if result.version else "."
    return said if result.better else f"Nothing to adopt: the declared way was not beaten. {said}"


def _failed(result: Result) -> str:
    if not result.failed:
        return ""
    return "<h2>Failed</h2><ul>" + "".join(f"<li>{escape(why)}</li>" for why in result.failed) + "</ul>"


def _whole(result: Result) -> list[Placed]:
    """Those that learned all that trials see, in the order in which they were begun, as far as they can be drawn."""
    through = [one for one in result.leaderboard if one.tried.rungs[-1].batches == result.rungs[-1]]
    near = [one for one in through if one.tried.loss <= _FAR * result.production.loss]
    return sorted(near, key=lambda one: one.tried.trial)


def _left_out(result: Result) -> str:
    through = sum(one.tried.rungs[-1].batches == result.rungs[-1] for one in result.leaderboard)
    count = through - len(_whole(result))
    return f"{count} with more than {_FAR:g} times the declared way's loss are not drawn." if count else ""


def _best_so_far(result: Result) -> Any:
    figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
    drawn = _whole(result)
    numbers, losses = [one.tried.trial for one in drawn], [one.tried.loss for one in drawn]
    best = [min(losses[: place + 1]) for place in range(len(losses))]
    axis.scatter(numbers, losses, color=_TRIED, s=18)
    axis.step([*numbers, len(result.leaderboard)], [*best, *best[-1:]] if best else [0.0], where="post", color=_TRIED)
    axis.axhline(result.production.loss, color=_DECLARED, linestyle="--", label="as declared")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("trial")
    axis.set_ylabel("progressive loss")
    axis.legend(frameon=False, labelcolor=INK)
    plain(axis)
    return figure


def _importance(result: Result) -> str:
    if not any(result.importance.values()):
        return '<p class="note">Too few trials to tell.</p>'
    names = list(result.importance)[::-1]
    figure, axis = plt.subplots(figsize=(9, 0.6 + 0.3 * len(names)), layout="constrained")
    axis.barh([name.partition(".")[2] for name in names], [100 * result.importance[name] for name in names], color=_TRIED)
    axis.set_xlabel("share of what the first rung's losses depend on, %")
    plain(axis)
    note = "By permuting each setting in a random forest that foretells a trial's place at the first rung."
    return f'{svg(figure)}<p class="note">{note}</p>'


def _fronts(result: Result) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    drawn = [(one.tried.loss, one.cost) for one in _whole(result) if one.cost is not None]
    parameters = [(loss, float(cost.parameters)) for loss, cost in drawn]
    latencies = [(loss, cost.latency_s * 1e6) for loss, cost in drawn]
    _front(axes[0], parameters, "parameters")
    _front(axes[1], latencies, "µs for one row")
    axes[0].set_ylabel("progressive loss")
    return figure


def _front(axis: Any, points: Sequence[tuple[float, float]], label: str) -> None:
    front = sorted({one for one in points if on_front(one, points)}, key=lambda one: one[1])
    axis.scatter([cost for _, cost in points], [loss for loss, _ in points], edgecolors=_TRIED, facecolors="none", s=22)
    axis.plot([cost for _, cost in front], [loss for loss, _ in front], color=_TRIED, marker="o", markersize=5)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel(label)
    plain(axis)
