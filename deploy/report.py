"""The demo's report: one self-contained HTML page, and its chart as PNG."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np

from deploy.quality import Quality, Week

LIVE, FROZEN, GRID = "#1f6f8b", "#c8553d", "#dddddd"

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .2rem .8rem; text-align: right }
th { border-bottom: 2px solid #bbb } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) { background: #f6f6f6 }
svg { width: 100%; height: auto } .lead { font-size: 1.1rem }
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the demo measured."""

    first: datetime
    last: datetime
    frozen_at: datetime | None
    weeks: list[Week]
    live: Quality
    frozen: Quality
    overall: Quality
    freshness_s: list[float]
    totals: dict[str, str] = field(default_factory=dict[str, str])
    frozen_version: int = 0
    trials: list[str] = field(default_factory=list[str])
    """How versions fared that were tried afterwards, in plain words, line by line; `rankers` likewise of two rankers."""
    rankers: list[str] = field(default_factory=list[str])
    ways: list[str] = field(default_factory=list[str])
    """Likewise of a way to learn that a search found."""


def write_report(findings: Findings, folder: Path) -> tuple[Path, Path]:
    """Write report.html and quality.png; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = _quality_chart(findings)
    picture = folder / "quality.png"
    figure.savefig(picture, dpi=150)
    charts = [_svg(figure), _svg(_freshness_chart(findings.freshness_s))]
    page = folder / "report.html"
    page.write_text(_page(findings, charts), encoding="utf-8")
    plt.close("all")
    return page, picture


def _quality_chart(findings: Findings) -> Any:
    figure, axes = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    for axis, name, title in zip(axes, ("auc", "log_loss"), ("AUC by week", "log loss by week"), strict=True):
        for side, colour, label in (("live", LIVE, "live, learning"), ("frozen", FROZEN, "frozen")):
            weeks = [week for week in findings.weeks if getattr(week, side).rows >= 500]
            values = [getattr(getattr(week, side), name) for week in weeks]
            if weeks:
                axis.plot([week.start for week in weeks], values, color=colour, marker="o", markersize=4, label=label)
        if findings.frozen_at:
            axis.axvline(findings.frozen_at, color="#888888", linestyle="--", linewidth=1)
        axis.set_title(title, loc="left", fontsize=11)
        _plain(axis)
    axes[0].legend(frameon=False, ncols=2)
    axes[1].xaxis.set_major_formatter(mdates.ConciseDateFormatter(mdates.AutoDateLocator()))
    return figure


def _freshness_chart(seconds: Sequence[float]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
    milliseconds = np.asarray(seconds) * 1000.0
    top = float(np.quantile(milliseconds, 0.995)) if len(milliseconds) else 1.0
    axis.hist(np.clip(milliseconds, 0, top), bins=60, color=LIVE)
    axis.set_xlabel("milliseconds from posting labels until every replica answers with what they taught")
    axis.set_ylabel("hours")
    _plain(axis)
    return figure


def _plain(axis: Any) -> None:
    axis.grid(color=GRID, linewidth=0.6)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]


def _page(findings: Findings, charts: list[str]) -> str:
    period = f"{findings.first:%d %B} to {findings.last:%d %B %Y}"
    rows = "".join(_week_row(week) for week in findings.weeks)
    totals = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in findings.totals.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Tidemill: a year of flights</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>
<h1>Will this flight be late? {escape(period)}</h1>
<p class="lead">{_lead(findings)}</p>
<h2>Quality</h2>{charts[0]}
<h2>Freshness</h2>{charts[1]}
{_trials("Versions on trial", findings.trials)}{_trials("Two rankers", findings.rankers)}
{_trials("A better way to learn", findings.ways)}<h2>Cost</h2><table>{totals}</table>
<h2>Week by week</h2>
<table><tr><th>week of</th><th>flights</th><th>live AUC</th><th>log loss</th><th>frozen AUC</th><th>log loss</th></tr>
{rows}</table>
</body></html>
"""


def _trials(title: str, lines: Sequence[str]) -> str:
    """A paragraph per trial, what became of it as a list."""
    if not lines:
        return ""
    parts: list[str] = []
    for line in lines:
        parts.append(f"<li>{escape(line.strip())}</li>" if line.startswith(" ") else f"</ul><p>{escape(line)}</p><ul>")
    return f"<h2>{title}</h2><ul>{''.join(parts)}</ul>"


def _lead(findings: Findings) -> str:
    live, frozen = findings.live, findings.frozen
    if not findings.frozen_at or not frozen.rows:
        return f"Over {findings.overall.rows:,} flights the learning model's AUC is {findings.overall.auc:.3f}."
    return (
        f"Since {findings.frozen_at:%d %B} the model that kept learning ranks late flights with AUC {live.auc:.3f} and log "
        f"loss {live.log_loss:.3f}. The same model, frozen that day and shadowing it, has {frozen.auc:.3f} and "
        f"{frozen.log_loss:.3f}."
    )


def _week_row(week: Week) -> str:
    cells = "".join(f"<td>{shown(value)}</td>" for side in (week.live, week.frozen) for value in (side.auc, side.log_loss))
    return f"<tr><td>{week.start:%d %b %Y}</td><td>{week.live.rows:,}</td>{cells}</tr>"


def shown(value: float) -> str:
    """A quality as people read it.

    >>> shown(0.7512), shown(float("nan"))
    ('0.751', 'n/a')
    """
    return "n/a" if math.isnan(value) else f"{value:.3f}"
