"""An experiment's report for people: what it means in a few sentences, then the numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.cli_terminal import table
from deploy.cli_words import arm, duration, listed, moment, number, share, units_of

_DECISION_STYLES = {"roll back": "red", "block": "yellow", "promote": "green"}
_VERDICTS = {"roll back": "roll it back", "block": "go no further", "promote": "promote it", "wait": "wait"}
_KINDS = {"ab": "A/B test", "interleave": "Interleaving"}
_ENDED = {"promote": "promoted", "roll back": "rolled back", "stop": "stopped"}
_GUARDS = ("errors", "timeouts", "latency", "scores")
_NO_BOUND = 1.0
"""An e-value that decides needs more; a finding that needs no more than this decides nothing."""


def page(model: str, shown: Mapping[str, Any], policy: Mapping[str, Any], now: float) -> RenderableType:
    """Return all there is to read of an experiment.

    Args:
        shown: what GET /admin/models/{model}/experiments/{name} answers.
        policy: the model's.
    """
    running = next((one for one in policy["experiments"] if one["name"] == shown["experiment"]), None)
    report = shown["report"]
    if running is None:
        words = [_ended(shown, now), *([_harmed(report)] if report is not None else [])]
    elif report is None:
        words = [_runs(running, policy, now), Text("There is no report of it yet: the first comes within a second or two.")]
    else:
        words = list(_sentences(model, running, report, policy, now))
    tables = list(_tables(report)) if report is not None else []
    if running is not None and "shadow_queue" in shown:
        counts = ", ".join(f"{count:,} {what}" for what, count in shown["shadow_queue"].items())
        tables.append(Text(f"all shadows of all replicas, since they began: {counts}"))
    decisions = [_decisions(shown["decisions"])] if shown["decisions"] else []
    # Sentences make one paragraph.
    return Group(Text(" ").join(words), *tables, *decisions)


def _sentences(
    model: str, running: Mapping[str, Any], report: Mapping[str, Any], policy: Mapping[str, Any], now: float
) -> Iterator[Text]:
    progress = running["progress"]
    yield _runs(running, policy, now)
    for name, decision in verdicts(report):
        yield Text(_verdict(running, report, name, decision), style=_DECISION_STYLES.get(decision, ""))
    if progress["status"] == "running":
        yield Text(_until_decided(model, running, report, now))
    else:
        moves = f"'tidemill experiment resume {model} {running['name']}', 'promote' or 'rollback'"
        why = f": {progress['why'].partition(';')[0]}" if progress["why"] else ""
        yield Text(f"It is {progress['status']}{why}; it stays as it is until {moves}.", style="yellow")
    yield _harmed(report)


def _runs(running: Mapping[str, Any], policy: Mapping[str, Any], now: float) -> Text:
    progress, variants = running["progress"], policy["variants"]
    since = duration(now - progress["started_at"])
    step = f", step {progress['step'] + 1} of {len(running['steps'])}" if running["steps"] else ""
    shares = {arm(name, variants): share(part) for name, part in running["shares"].items()}
    of = units_of(running)
    answered = listed([f"{name} answers {part}" for name, part in shares.items()])
    match running["kind"]:
        case "shadow":
            says = f"after the answer, {listed([f'{name} scores {part}' for name, part in shares.items()])} of {of}, unseen"
        case "interleave":
            says = f"{listed(list(shares))} draft lists together ({running['strategy']}), for {of}"
        case "canary":
            says = f"{answered} of {of}, {arm(running['baseline'], variants)} the others"
        case _:
            says = f"of {of}, {answered}; '{running['baseline']}' is what the others are compared with"
    kind = _KINDS.get(running["kind"], running["kind"].capitalize())
    return Text(f"{kind} '{running['name']}' has been running for {since}{step}: {says}.", style="bold")


def verdicts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each arm with its verdict.

    >>> verdicts({"verdict": "new: wait; other: roll back"})
    [('new', 'wait'), ('other', 'roll back')]
    """
    parts = [part.rpartition(": ") for part in report["verdict"].split("; ") if part]
    return [(name, decision) for name, _, decision in parts]


def _verdict(running: Mapping[str, Any], report: Mapping[str, Any], name: str, decision: str) -> str:
    findings = [finding for finding in report["findings"] if finding["arm"] == name]
    pending = [f for f in findings if not f["good"] and f["says"] in report["why"]]
    if decision == "wait" and "not shown yet" in report["why"]:
        margins = "its margin" if len(pending) == 1 else "their margins"
        return (
            f"The verdict on '{name}' is to wait: {listed([f['name'] for f in pending])} not shown yet to be within {margins}."
        )
    why = _because(report, decision, findings)
    if decision == "roll back" and not running["shares"].get(name):
        return f"'{name}' has been rolled back: {why}."
    odd = decision == "promote" and any(finding["name"] == "scores" and finding["harm"] for finding in findings)
    labels = " Its scores are no scores of the baseline's, but where labels come, they decide." if odd else ""
    return f"The verdict on '{name}' is to {_VERDICTS.get(decision, decision)}: {why}.{labels}"


def _because(report: Mapping[str, Any], decision: str, findings: Sequence[Mapping[str, Any]]) -> str:
    """The verdict's reason: the report has one text for all arms, so that of several is told from the findings."""
    if len(verdicts(report)) == 1:
        return report["why"]
    if decision == "promote":
        return "every guard and metric is within its margin" if len(findings) > 1 else findings[0]["says"]
    if decision == "block":
        return report["why"]
    return "; ".join(finding["says"] for finding in findings if finding["harm"] or decision == "wait") or report["why"]


def _until_decided(model: str, running: Mapping[str, Any], report: Mapping[str, Any], now: float) -> str:
    steps = _steps_left(running, now)
    if verdicts(report) and all(decision == "promote" for _, decision in verdicts(report)):
        by_hand = f"'tidemill promote {model} --experiment {running['name']}' makes it the default arm"
        return f"{steps.capitalize() or by_hand}."
    if "projection" not in report:
        alone = "It decides nothing but to roll back what fails or is worse"
        return f"{steps.capitalize() or alone}."
    foreseen = report["projection"]
    if foreseen is None or foreseen["units_needed"] is None:
        return "; ".join(filter(None, ["How long a decision takes cannot be said before labels have come", steps])) + "."
    metric, needed, seen = report["arms"][0]["metric"], foreseen["units_needed"], foreseen["units_seen"]
    if seen >= needed:
        when = f"The {needed:,} units that a decision on {metric} is likely to take have been seen"
    else:
        left = f", in about {duration(foreseen['seconds_left'])}" if foreseen["seconds_left"] else ""
        when = f"A decision on {metric} is likely after about {needed:,} units{left}; {seen:,} have been seen"
    return "; ".join(filter(None, [when, steps])) + "."


def _steps_left(running: Mapping[str, Any], now: float) -> str:
    """What the steps ask for besides the verdict; empty where there are none."""
    if not running["steps"]:
        return ""
    progress, (step, *following) = running["progress"], running["steps"][running["progress"]["step"] :]
    left = max(0.0, progress["entered_at"] + step["min_s"] - now) + sum(one["min_s"] for one in following)
    time = f"its steps take at least {duration(left)} more" if round(left, 1) else "its steps have had their time"
    return f"{time}, and this one {step['min_units']:,} units of its own"


def _harmed(report: Mapping[str, Any]) -> Text:
    if "harmed_units" not in report:
        if report.get("failed"):
            return Text(f"{report['failed']:,} times a ranker failed, and the others made the list.", style="red")
        return Text(
            "Nobody was harmed: nobody is answered by it." if "shadows" in report else "Nobody was harmed.", style="green"
        )
    if not report["harmed_units"]:
        return Text("Nobody was harmed: no arm on trial failed or took too long.", style="green")
    units = sum(arm["units"] for arm in report["arms"])
    some = f"{report['harmed_units']:,} of {units:,} units ({share(report['harmed_share'])}) were harmed"
    return Text(f"{some}: their arm failed or took too long, and the default arm answered them.", style="red")


def _ended(shown: Mapping[str, Any], now: float) -> Text:
    last = shown["decisions"][0]
    how = _ENDED.get(last["action"])
    if how is None:
        return Text(f"'{shown['experiment']}' has ended: another policy was set.", style="bold")
    words = f"'{shown['experiment']}' has ended: {how} by {last['who']} {duration(now - last['at'])} ago: {last['why']}."
    return Text(f"{words} Now {last['after']}.", style=f"bold {'red' if last['action'] == 'roll back' else ''}".strip())


def _tables(report: Mapping[str, Any]) -> Iterable[RenderableType]:
    if report.get("arms"):
        yield _arms(report["arms"])
        yield _sample_ratio(report["sample_ratio"])
    if report.get("shadows"):
        yield _shadows(report["shadows"])
        if any(one.get("slices") for one in report["shadows"]):
            yield _slices(report["shadows"])
    if "lists" in report:
        yield Text(f"{report['lists']:,} lists for {report['units']:,} units")
    if report["findings"]:
        yield _findings(report["findings"])


def forecast_words(foreseen: Mapping[str, Any]) -> str:
    """Say how long an experiment that has not begun is likely to take."""
    if "refused" in foreseen:
        return f"nothing can be foretold: {foreseen['refused']}"
    metric, part = foreseen["metric"], share(foreseen["share"])
    if foreseen["units_needed"] is None:
        return f"with {part} of the units, {foreseen['to_see']} of {metric} is never seen"
    pace = f"{foreseen['units_per_second']:.3g} units per second as lately"
    when = f"about {foreseen['units_needed']:,} units, {duration(foreseen['seconds'])} at {pace}"
    return f"to see {foreseen['to_see']} of {metric} with {part} of the units takes {when}"


def _arms(arms: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("arm", "version", "share", "units", "closed", "predictions", "outcomes", arms[0]["metric"], *_GUARDS)
    rows = [
        (
            one["arm"],
            str(one["version"] or "newest"),
            share(one["share"]),
            *(f"{one[key]:,}" for key in ("units", "closed", "predictions", "outcomes")),
            number(one["value"]),
            *(f"{one['events'][guard]:,}" for guard in _GUARDS),
        )
        for one in arms
    ]
    return table(columns, rows, "arms; closed units are judged; what follows the metric are units with that event")


def _sample_ratio(ratio: Mapping[str, Any]) -> Text:
    if ratio["alarm"]:
        return Text(
            f"sample ratio: units arrive in other proportions than they were assigned (e = {ratio['e']:g})", style="red"
        )
    return Text("sample ratio: " + ("nothing to compare" if ratio["e"] is None else f"as assigned (e = {ratio['e']:g})"))


def _shadows(shadows: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        "shadow", "predictions", "failed", "same decision", "mean gap", "99% of gaps below", "rank correlation", "scores moved",
        "ms, answer's", "labelled units", "only it right", "only answer right",
    )  # fmt: skip
    rows = [
        (
            one["variant"],
            f"{one['predictions']:,}",
            f"{one['failed']:,}",
            share(one["agreement"]) if "agreement" in one else "",
            *(number(one.get(key), 3) for key in ("mean_gap", "p99_gap", "rank_correlation")),
            _moved(one.get("score_stability")),
            f"{one['run_ms']:.2f}, {one['answer_run_ms']:.2f}" if "run_ms" in one else "",
            *(number(one.get(key)) for key in ("labelled_units", "only_shadow_right", "only_answer_right")),
        )
        for one in shadows
    ]
    return table(columns, rows, "shadows")


def _moved(stability: Mapping[str, Any] | None) -> str:
    """The population stability index, and whether it alarms."""
    return f"{number(stability['psi'], 2)}{', yes' if stability['alarm'] else ', no'}" if stability else ""


def _slices(shadows: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (one["variant"], part["slice"], f"{part['predictions']:,}", share(part["disagree"]), number(part["mean_gap"], 3))
        for one in shadows
        for part in one.get("slices", [])
    ]
    return table(("shadow", "slice", "predictions", "other decision", "mean gap"), rows, "where they differ most")


def _findings(findings: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            finding["arm"],
            finding["name"],
            _evidence(finding["e_harm"], finding["needs_harm"], finding["harm"], "red"),
            _evidence(finding["e_good"], finding["needs_good"], finding["good"], "green"),
            finding["says"].removeprefix(f"{finding['name']}: "),
        )
        for finding in findings
    ]
    return table(("arm", "of", "harm: e of needed", "good: e of needed", "because"), rows, "findings")


def _evidence(e: float, needed: float, enough: bool, style: str) -> Text:
    if needed <= _NO_BOUND:
        return Text("-")
    return Text(f"{e:.3g} of {needed:.3g}" if e < 1e6 else f"{e:.0e} of {needed:.3g}", style=style if enough else "")


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> Table:
    entered = next(
        (place for place, one in enumerate(decisions, 1) if one["action"] == "enter"), None
    )  # others had this name before
    rows = [(moment(one["at"]), one["who"], one["action"], one["after"], one["why"]) for one in decisions[:entered]]
    return table(("when", "who", "what", "since then", "why"), rows, "decisions")
