"""Commands on experiments: start and move them, promote and roll back, read what they have shown and who decided what."""

from time import sleep, time
from typing import Annotated, Any

import typer

from deploy.cli_declaration import from_file, judging_of, rules_of, shares_of, steps_of, variants_of
from deploy.cli_policy import Better, LabelsS, Margin, MaxS, Metric, MinS, MinUnits, Steps, WindowS
from deploy.cli_report import forecast_words, page, verdicts
from deploy.cli_terminal import (
    HomeOption,
    JsonOption,
    Model,
    Name,
    Why,
    connected,
    errors,
    out,
    print_json,
    read_json_file,
    refuse_beside_file,
    say,
    table,
)
from deploy.cli_words import arm as arm_words
from deploy.cli_words import moment
from deploy.cli_words import share as share_words
from deploy.client import Client

app = typer.Typer()
experiment_app = typer.Typer(no_args_is_help=True, help="Start, list, pause and end experiments.")

_SAID = "an operator asked for it"


@experiment_app.command("list")
def experiment_list(model: Model, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the experiments that run."""
    with errors(), connected(home) as client:
        found = client.experiments(model)
        if as_json:
            return print_json(found)
        if not found:
            return say(f"no experiment runs; 'tidemill experiment start {model} NAME' starts one")
        reports: dict[str, Any] = {one["experiment"]: one["report"] or {} for one in found}
        rows = [_row(one, reports.get(one["name"], {})) for one in client.policy(model)["policy"]["experiments"]]
        out.print(table(("experiment", "kind", "status", "step", "shares", "units", "verdict"), rows))


def _row(experiment: dict[str, Any], report: dict[str, Any]) -> tuple[str, ...]:
    progress = experiment["progress"]
    step = f"{progress['step'] + 1} of {len(experiment['steps'])}" if experiment["steps"] else ""
    shares = ", ".join(f"{name} {share_words(part)}" for name, part in experiment["shares"].items())
    units = report.get("units", sum(arm["units"] for arm in report.get("arms", [])))
    said = ", ".join(f"{name}: {decision}" for name, decision in verdicts(report)) if report else "no report yet"
    return experiment["name"], experiment["kind"], progress["status"], step, shares, f"{units:,}" if units else "", said


@experiment_app.command("start")
def experiment_start(
    context: typer.Context,
    model: Model,
    name: Name,
    kind: Annotated[str, typer.Option(help="canary, ab, shadow or interleave.")] = "canary",
    arm: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VERSION|LINE", help="An arm, and what it follows; repeatable.")
    ] = None,
    share: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FRACTION", help="What an arm gets; a bare FRACTION is the only arm's.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="What the arms are compared with; default: the default arm.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE", help="For whom: 'feature:country=VN,JP', 'unit:staff-*', 'feature:age>=18', …; all must hold."
        ),
    ] = None,
    traffic: Annotated[float | None, typer.Option(help="The share of the layer's units that take part; default 1.")] = None,
    layer: Annotated[str | None, typer.Option(help="Experiments of one layer exclude each other.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Of interleave: team_draft, probabilistic or optimised.")] = None,
    steps: Steps = None,
    min_s: MinS = None,
    min_units: MinUnits = None,
    max_s: MaxS = None,
    metric: Metric = None,
    better: Better = False,
    margin: Margin = None,
    window_s: WindowS = None,
    labels_s: LabelsS = None,
    file: Annotated[str | None, typer.Option(help="The experiment as a JSON file, or - for standard input.")] = None,
    forecast: Annotated[bool, typer.Option("--forecast", help="Start nothing: say how long it is likely to take.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start an experiment; returns when every replica has it. With --steps it promotes its arm by itself, if that is good."""
    with errors(), connected(home) as client:
        variants = variants_of(arm or [])
        if file:
            refuse_beside_file(context, "name", "forecast")
            experiment, variants = from_file(read_json_file(file), name)
        else:
            plan = steps_of(steps, min_s, min_units) if steps else []
            if not plan and (min_s is not None or min_units is not None):
                raise ValueError("--min-s and --min-units are of steps: name them with --steps 0.01,0.05,0.25,0.5")
            compared = baseline or client.policy(model)["policy"]["default"]
            optional = {
                "baseline": baseline,
                "traffic": traffic,
                "layer": layer,
                "strategy": strategy,
                "target": rules_of(target or []),
                "steps": plan,
                "max_s": max_s,
                "judging": judging_of(metric, better, margin, window_s, labels_s),
            }
            shares = shares_of(kind, compared, [one["name"] for one in variants], share or [], bool(plan))
            experiment = {"name": name, "kind": kind, "shares": shares}
            experiment |= {option: value for option, value in optional.items() if value not in (None, [], {})}
        if forecast:
            foreseen = client.forecast(model, experiment, variants)
            return print_json(foreseen) if as_json else say(forecast_words(foreseen))
        state = client.start_experiment(model, experiment, variants)
        _tell(state, f"'{name}' runs; 'tidemill report {model} {name}' says what it shows", as_json)


@experiment_app.command("stop")
def experiment_stop(model: Model, name: Name, why: Why = _SAID, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """End an experiment: the default arm answers all, and nothing is said of the versions."""
    with errors(), connected(home) as client:
        state = client.move_experiment(model, name, "stop", why)
        _tell(state, f"'{name}' has ended, '{state['policy']['default']}' answers", as_json)


@experiment_app.command("pause")
def experiment_pause(model: Model, name: Name, why: Why = _SAID, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Let an experiment stay as it is; what does harm is still rolled back."""
    with errors(), connected(home) as client:
        state = client.move_experiment(model, name, "pause", why)
        _tell(state, f"'{name}' stays as it is until 'tidemill experiment resume {model} {name}'", as_json)


@experiment_app.command("resume")
def experiment_resume(model: Model, name: Name, why: Why = _SAID, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Let a paused or held experiment go on."""
    with errors(), connected(home) as client:
        state = client.move_experiment(model, name, "resume", why)
        _tell(state, f"'{name}' goes on", as_json)


@app.command()
def promote(
    model: Model,
    why: Why,
    version: Annotated[int | None, typer.Argument(help="The version that is to answer.", min=1)] = None,
    experiment: Annotated[str | None, typer.Option(help="Promote this experiment's arm, and end the experiment.")] = None,
    arm: Annotated[str, typer.Option(help="Which of its arms, where there are several.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Though it failed its gates, or passed others, or long ago.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version, or an experiment's arm, the default arm at once; not one that its gates do not let through."""
    with errors(), connected(home) as client:
        if (version is None) == (experiment is None) or (arm and version is not None):
            raise ValueError("say what: a version, or --experiment NAME and, where it has several, --arm ARM")
        if experiment is not None:
            state = client.move_experiment(model, experiment, "promote", why, arm, force=force)
        else:
            state = client.promote(model, version or 0, why, force=force)
        _tell(state, f"{_default(state)} is the default arm", as_json)


@app.command()
def rollback(
    model: Model,
    name: Name,
    why: Why,
    arm: Annotated[str, typer.Option(help="Which of its arms, where there are several.")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take an arm out of an experiment at once. The version that it is pinned to is rejected and never tried again."""
    with errors(), connected(home) as client:
        state = client.move_experiment(model, name, "rollback", why, arm)
        left = any(one["name"] == name for one in state["policy"]["experiments"])
        after = "goes on with its other arms" if left else f"has ended, {_default(state)} answers"
        _tell(state, f"rolled back: '{name}' {after}", as_json)


@app.command()
def report(
    model: Model,
    name: Name,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until the experiment ends, or Ctrl-C.")] = False,
    every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what an experiment has shown, in words and in numbers; of one that has ended, what was decided."""
    with errors(), connected(home) as client:
        if watch and as_json:
            raise ValueError("--watch is for people, --json for scripts: choose one")
        if as_json:
            return print_json(client.experiment(model, name))
        try:
            while _show(client, model, name, clear=watch) and watch:
                sleep(every_s)
        except KeyboardInterrupt:
            return None


def _show(client: Client, model: str, name: str, clear: bool) -> bool:
    """Print a report; return whether the experiment runs."""
    shown = client.experiment(model, name)
    policy = client.policy(model)["policy"]
    if clear:
        out.clear()
    out.print(page(model, shown, policy, time()), highlight=False)
    return shown["running"]


@app.command()
def audit(
    model: Annotated[str, typer.Argument(help="A model's name; without one, of all models.")] = "",
    last: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who decided what, newest first."""
    with errors(), connected(home) as client:
        found = client.audit(model, last)
        if as_json:
            return print_json(found)
        if not found:
            return say("nothing was decided yet")
        rows = [
            (
                moment(one["at"]),
                one["who"],
                one["model"],
                one["action"],
                one["experiment"],
                one["after"],
                one["why"],
                str(one["epoch"]),
            )
            for one in found
        ]
        out.print(table(("when", "who", "model", "what", "experiment", "since then", "why", "epoch"), rows))


def _default(state: dict[str, Any]) -> str:
    policy = state["policy"]
    return arm_words(policy["default"], policy["variants"])


def _tell(state: dict[str, Any], says: str, as_json: bool) -> None:
    print_json(state) if as_json else say(f"{says}; epoch {state['epoch']} is on every replica")
