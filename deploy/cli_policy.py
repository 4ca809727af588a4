"""Commands on a model's traffic policy: the policy itself, and how new versions enter."""

from time import time
from typing import Annotated, Any

import typer

from deploy.cli_declaration import judging_of, steps_of
from deploy.cli_terminal import (
    HomeOption,
    JsonOption,
    Model,
    connected,
    errors,
    print_json,
    read_json_file,
    refuse_beside_file,
    say,
)
from deploy.cli_words import arm, duration, judged, share, steps, units_of
from deploy.client import Client
from store.policy import RolloutPlan

policy_app = typer.Typer(no_args_is_help=True, help="Show or replace a model's traffic policy.")
rollout_app = typer.Typer(no_args_is_help=True, help="Let new versions prove themselves, step by step, before they answer all.")

Steps = Annotated[
    str | None, typer.Option(metavar="SHARES", help="Shares step by step, such as shadow,0.01,0.05,0.25,0.5; then all.")
]
MinS = Annotated[float | None, typer.Option(min=0.0, help="Seconds that each step takes at least; default 60.")]
MinUnits = Annotated[int | None, typer.Option(min=0, help="The candidate's units that each step takes at least; default 100.")]
MaxS = Annotated[float | None, typer.Option(help="Seconds after which it is held, undecided; default 7 days.")]
Metric = Annotated[
    str | None, typer.Option(help="By what outcomes are judged: loss, or label (the larger the better); default loss.")
]
Better = Annotated[bool, typer.Option("--better", help="Promote what is better, not what is merely not worse.")]
Margin = Annotated[
    float | None, typer.Option(help="How much worse the metric may be, as a share of the baseline's; default 0.05.")
]
WindowS = Annotated[
    float | None, typer.Option(help="Seconds for which a unit counts, from its first prediction on; default 60.")
]
LabelsS = Annotated[float | None, typer.Option(help="Seconds that its labels are then waited for; default 0.")]


@policy_app.command("show")
def policy_show(model: Model, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the policy and its epoch."""
    with errors(), connected(home) as client:
        state = client.policy(model)
        if as_json:
            return print_json(state)
        policy = state["policy"]
        say(f"epoch {state['epoch']}; default arm: {policy['default']}")
        for variant in policy["variants"]:
            follows = f"version {variant['version']}" if variant["version"] else f"the newest of line {variant['line']}"
            say(f"  variant {variant['name']}: {follows}")
        for experiment in policy["experiments"]:
            say(f"  {_experiment_line(experiment)}")
        if policy["holdout"]:
            say(f"  hold-out: {share(policy['holdout'])} of the units take part in no experiment")
        if policy["forced"]:
            say(f"  forced: {', '.join(f'{unit} to {variant}' for unit, variant in policy['forced'].items())}")
        if policy["rollout"]:
            say(f"  rollout: {_plan_line(policy['rollout'])}")


@policy_app.command("set")
def policy_set(
    model: Model,
    file: Annotated[str, typer.Argument(help="A JSON file with the policy, or - for standard input.")],
    epoch: Annotated[
        int | None,
        typer.Option(help="Change only if this is still the epoch; default: that of the file, else the current one."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace the policy; returns when every replica has it. What `show --json` printed may be edited and set."""
    with errors(), connected(home) as client:
        wanted = read_json_file(file)
        expected = epoch if epoch is not None else wanted.get("epoch")
        if not isinstance(expected, int):
            expected = client.policy(model)["epoch"]
        state = client.set_policy(model, wanted.get("policy", wanted), expected)
        print_json(state) if as_json else say(f"epoch {state['epoch']} is on every replica")


@rollout_app.command("on")
def rollout_on(
    context: typer.Context,
    model: Model,
    steps: Steps = None,
    min_s: MinS = None,
    min_units: MinUnits = None,
    max_s: MaxS = None,
    every_s: Annotated[float | None, typer.Option(help="Seconds between two versions that enter, at least.")] = None,
    line: Annotated[str | None, typer.Option(help="Whose versions enter; default main.")] = None,
    metric: Metric = None,
    better: Better = False,
    margin: Margin = None,
    window_s: WindowS = None,
    labels_s: LabelsS = None,
    file: Annotated[
        str | None, typer.Option(help="The plan as a JSON file, or - for standard input, in place of options.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let versions enter by themselves, one at a time. A default arm that follows a line is pinned to its newest first."""
    with errors(), connected(home) as client:
        given: dict[str, Any] = {"line": line, "max_s": max_s, "every_s": every_s, "steps": steps_of(steps, min_s, min_units)}
        options = {name: value for name, value in given.items() if value not in (None, [])}
        if judging := judging_of(metric, better, margin, window_s, labels_s):
            options["judging"] = judging
        if file:
            refuse_beside_file(context)
        state = client.policy(model)
        policy = state["policy"]
        pinned = _pin(client, model, policy)
        policy["rollout"] = read_json_file(file) if file else options
        state = client.set_policy(model, policy, state["epoch"])
        if as_json:
            return print_json(state)
        say(f"{pinned}{_plan_line(state['policy']['rollout'])}; epoch {state['epoch']} is on every replica")


def _pin(client: Client, model: str, policy: dict[str, Any]) -> str:
    """Pin the default arm of a policy that was read to the newest good version of its line, unless it is pinned; say so."""
    default = next(variant for variant in policy["variants"] if variant["name"] == policy["default"])
    if default["version"]:
        return ""
    found = client.versions(model, 1000)
    good = (one["number"] for one in found if one["line"] == default["line"] and one["status"] == "published")
    default["version"] = next(good, None)
    if default["version"] is None:
        raise ValueError(f"line '{default['line']}' has published no version yet: 'tidemill retrain {model}' makes one")
    return f"'{default['name']}' is pinned to version {default['version']}; "


@rollout_app.command("off")
def rollout_off(
    model: Model,
    follow: Annotated[bool, typer.Option("--follow", help="Let the default arm follow its line again, untried.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let no more versions enter. The default arm stays at its version, and one that is on trial goes on."""
    with errors(), connected(home) as client:
        state = client.policy(model)
        policy = state["policy"]
        policy["rollout"] = None
        default = next(variant for variant in policy["variants"] if variant["name"] == policy["default"])
        if follow:
            default["version"] = None
        state = client.set_policy(model, policy, state["epoch"])
        if as_json:
            return print_json(state)
        stays = f"{arm(default['name'], [default])} answers"
        say(f"no version enters by itself; {stays}; epoch {state['epoch']} is on every replica")
        _say_trial(model, policy)


@rollout_app.command("show")
def rollout_show(model: Model, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the plan, the champion, and what is on trial."""
    with errors(), connected(home) as client:
        policy = client.policy(model)["policy"]
        if as_json:
            return print_json({name: policy[name] for name in ("rollout", "tried", "tried_at")})
        say(
            _plan_line(policy["rollout"])
            if policy["rollout"]
            else f"off: 'tidemill rollout on {model}' lets new versions enter"
        )
        say(f"{arm(policy['default'], policy['variants'])} is the default arm")
        if policy["tried"]:
            say(f"the last to enter was version {policy['tried']}, {duration(time() - policy['tried_at'])} ago")
        _say_trial(model, policy)


def _say_trial(model: str, policy: dict[str, Any]) -> None:
    for experiment in policy["experiments"]:
        if experiment["steps"]:
            say(f"on trial: {_experiment_line(experiment)}; 'tidemill report {model} {experiment['name']}' says more")


def _experiment_line(experiment: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {part:.1%}" for name, part in experiment["shares"].items())
    progress = experiment["progress"]
    step = f", step {progress['step'] + 1} of {len(experiment['steps'])}" if experiment["steps"] else ""
    layer = f", layer {experiment['layer']}" if experiment["layer"] else ""
    of = units_of(experiment)
    whom = f" of {of}" if of != "all units" else ""
    return f"{experiment['kind']} {experiment['name']}: {shares}{whom}{layer}{step}, {progress['status']}"


def _plan_line(rollout: dict[str, Any]) -> str:
    plan = RolloutPlan.model_validate(rollout).model_dump()
    return (
        f"versions of line {plan['line']} enter one at a time: {steps(plan['steps'])}; {judged(plan['judging'])}; "
        f"undecided after {duration(plan['max_s'])} they are held"
    )
