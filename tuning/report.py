"""A run's report: one HTML page that holds all it shows, readable in light and in dark."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from tuning.comparison import ArmResult, Interval, Pair, Result

COLOURS = {"stateful": "#2a8fb3", "stateless": "#d9674d"}
INK = "#7d7d7d"
"""Of what is written in charts: readable on white and on black."""

STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #bbb; --row: #f6f6f6 }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #161616; --line: #555; --row: #202020 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .2rem .6rem; text-align: right }
td { white-space: nowrap }
.words td:last-child, .words th:last-child { white-space: normal; text-align: left; min-width: 22rem }
th { border-bottom: 2px solid var(--line) } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) { background: var(--row) }
svg { width: 100%; height: auto } .lead { font-size: 1.1rem } .note { font-size: .9rem }
"""


def write_freshness(path: Path, result: Result) -> None:
    """Write the page of `tidemill freshness`."""
    first, last = (datetime.fromtimestamp(moment, UTC) for moment in (result.start, result.end))
    rows = [figures(one) for one in result.arms]
    pairs = [pair_figures(one) for one in result.pairs]
    head = ("model made", "steps", "processor seconds", "outcomes learned", result.loss_name, "AUC", "against never")
    pair_head = (
        "cadence",
        "stateless costs",
        "without the first models",
        f"{result.loss_name}, stateful less stateless",
        "over",
    )
    body = f"""<p class="lead">{escape(_lead(result))}</p>
<h2>Quality against compute</h2>{svg(_chart(result))}
<p class="note">Hollow: extrapolated from a sample of the steps; its quality is of the predictions after those steps alone, and
compares with the others' in the table below only.</p>
<h2>Every cadence</h2>{table(head, rows)}
<h2>Stateful against stateless</h2>{table(pair_head, pairs)}
<h2>How this was measured</h2>{_method(result)}"""
    title = f"The value of freshness: {result.model}"
    subtitle = f"{first:%d %B %Y} to {last:%d %B %Y}, {result.predictions:,} predictions"
    path.write_text(page(title, subtitle, body), encoding="utf-8")


def page(title: str, subtitle: str, body: str) -> str:
    """Return a whole page that needs nothing from elsewhere. `body` is HTML, the rest is text."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1><p>{escape(subtitle)}</p>
{body}
</body></html>
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of plain text."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>\n{body}</table></div>'


def figures(one: ArmResult) -> tuple[str, ...]:
    """An arm's row as people read it; `extrapolated` stands beside what is."""
    mark = " (extrapolated)" if one.extrapolated else ""
    steps = f"{one.steps:,}" + (f", {one.carried_out} carried out" if one.extrapolated else "")
    auc = "" if one.auc is None else f"{one.auc:.4f}"
    return (
        f"{one.name}{mark}", steps, f"{one.seconds:,.1f}{mark}", f"{one.outcomes:,}{mark}", f"{one.loss:.4f}", auc,
        interval(one.over_never),
    )  # fmt: skip


def interval(found: Interval | None) -> str:
    return "" if found is None else f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def pair_figures(one: Pair) -> tuple[str, ...]:
    """A pair's row as people read it."""
    mark = " (extrapolated)" if one.extrapolated else ""
    updates = f"{one.updates_ratio:,.1f} times" if one.updates_ratio is not None else ""
    return (
        one.cadence + mark, f"{one.cost_ratio:,.1f} times", updates, interval(one.loss), f"{one.predictions:,} predictions",
    )  # fmt: skip


def _lead(result: Result) -> str:
    full = [one for one in result.arms if not one.extrapolated]
    best = min(full, key=lambda one: one.loss)
    said = f"Over the same predictions {best.name} has the least {result.loss_name}: {best.loss:.4f}"
    never = [one.loss for one in full if one.cadence == "never" and one.kind == best.kind]
    if never and best.cadence != "never":
        said += f", and a model that never learned again {never[0]:.4f}"
    return said + "."


def _method(result: Result) -> str:
    days = f"{result.window_days:g} days"
    return f"""<p class="note">Each prediction is scored by the model that was current when it was asked for; a model is made at
each boundary (in UTC) of outcomes whose label had arrived by then. The first {days} make the first model of all arms
and are not scored. Stateful: one learner goes on, and learns each outcome once, in micro-batches as production did.
Stateless: a new learner goes through the trailing {days}; {result.passes} times, a number found on the first window
alone unless it was given.</p>
<p class="note">Processor seconds are those of learning alone by one thread, the first model's among them; scoring is not
in them. Intervals hold 95 %, by drawing whole days 1,000 times. Features are those that were logged with each prediction:
streaming features followed the stream whoever learned, so that even a model that never learns again follows the day a
little.</p>"""


def _chart(result: Result) -> Any:
    figure, axis = plt.subplots(figsize=(9, 4.6), layout="constrained")
    for kind, colour in COLOURS.items():
        arms = [one for one in result.arms if one.kind == kind]
        full = [one for one in arms if not one.extrapolated]
        if not arms:
            continue
        axis.plot([one.seconds for one in full], [one.loss for one in full], color=colour, marker="o", label=kind)
        hollow = [one for one in arms if one.extrapolated]
        axis.scatter(
            [one.seconds for one in hollow], [one.loss for one in hollow], edgecolors=colour, facecolors="none", zorder=3
        )
        for one in arms:
            axis.annotate(
                one.cadence, (one.seconds, one.loss), xytext=(4, 6 if kind == "stateful" else -12),
                textcoords="offset points", fontsize=9, color=colour,
            )  # fmt: skip
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter("{x:,g}")
    axis.set_xlabel("processor seconds of learning")
    axis.set_ylabel(result.loss_name)
    axis.margins(x=0.12, y=0.12)
    axis.legend(frameon=False, labelcolor=INK)
    plain(axis)
    return figure


def plain(axis: Any) -> None:
    """Draw an axis so that it is readable on any ground."""
    axis.grid(color=INK, linewidth=0.4, alpha=0.4)
    axis.tick_params(colors=INK, which="both")
    axis.xaxis.label.set_color(INK)
    axis.yaxis.label.set_color(INK)
    axis.title.set_color(INK)
    for side, spine in axis.spines.items():
        spine.set_visible(side not in ("top", "right"))
        spine.set_color(INK)


def svg(figure: Any) -> str:
    """Return a figure as part of a page, and close it."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True)
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
