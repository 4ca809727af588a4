"""The `tidemill` command: a thin face of the platform's HTTP API and of starting and stopping it."""

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.measure import Measurement
from rich.table import Table

from deploy import (
    cli_archive,
    cli_compress,
    cli_drift,
    cli_expectations,
    cli_experiments,
    cli_freshness,
    cli_import,
    cli_keys,
    cli_lines,
    cli_models,
    cli_place,
    cli_policy,
    cli_retrain,
    cli_schedule,
    cli_tune,
    cli_versions,
    detached,
)
from deploy.cli_terminal import (
    HomeOption,
    JsonOption,
    Model,
    configured,
    connected,
    err,
    errors,
    out,
    print_json,
    read_json,
    say,
)
from deploy.cli_words import duration
from deploy.home import Home
from deploy.settings import Settings
from store import logs

log = logging.getLogger("deploy.cli")  # which is also run as __main__
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(cli_policy.policy_app, name="policy")
app.add_typer(cli_policy.rollout_app, name="rollout")
app.add_typer(cli_experiments.experiment_app, name="experiment")
app.add_typer(cli_keys.key_app, name="key")
app.add_typer(cli_lines.line_app, name="line")
app.add_typer(cli_models.model_app, name="model")
app.add_typer(cli_experiments.app)
app.add_typer(cli_import.app)
app.add_typer(cli_place.app)
app.add_typer(cli_archive.app)
app.add_typer(cli_versions.versions_app, name="versions")
app.add_typer(cli_retrain.app)
app.add_typer(cli_freshness.app)
app.add_typer(cli_tune.app)
app.add_typer(cli_drift.app)
app.add_typer(cli_schedule.app)
app.add_typer(cli_expectations.app)
app.command()(cli_compress.compress)


@app.command()
def up(
    spec: Annotated[list[str] | None, typer.Option(help="A ModelSpec as package.module:attribute; repeatable.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready and leave it running.")] = False,
    home: HomeOption = None,
    host: Annotated[str | None, typer.Option(help="Where to listen.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the HTTP API.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Ingress replicas.")] = None,
    traces: Annotated[str | None, typer.Option(help="Send traces to this collector (OTLP over HTTP).")] = None,
    log_format: Annotated[str | None, typer.Option(help="What the processes' logs are: text or json.")] = None,
) -> None:
    """Start the platform: Redis, Ray, a trainer per model, and the HTTP API."""
    specs = spec or ["examples.flights:spec"]
    with errors():
        settings = configured(home=home, host=host, port=port, replicas=replicas, traces=traces, log_format=log_format)
        if detach:
            running = detached.start(settings, specs, lambda stage: err.print(f"[dim]{stage}[/dim]"))
            out.print(f"ready at {running.url} (process {running.pid}); 'tidemill down' stops it")
        else:
            _run(settings, specs)


def _run(settings: Settings, specs: list[str]) -> None:
    """Run the platform in this process until it is told to stop."""
    from deploy.platform import Platform  # noqa: PLC0415 - the other commands start without what it imports

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    tell = _teller(settings)
    platform = Platform(settings, specs, tell)
    try:
        running = platform.start()
        if settings.log_format == "text":
            out.print(f"ready at [bold]{running.url}[/bold]; Ctrl-C stops it")
        while True:
            signal.pause()
    except KeyboardInterrupt:
        tell("stopping")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        platform.stop()


def _teller(settings: Settings) -> Callable[[str], None]:
    """Return what says how far the platform is: to people, or to those who gather JSON lines."""
    if settings.log_format == "text":
        return lambda stage: err.print(f"[dim]{stage}[/dim]")
    logs.configure("json", role="platform")
    log.setLevel(logging.INFO)
    return log.info


@app.command()
def down(home: HomeOption = None) -> None:
    """Stop the platform that runs in this home."""
    with errors():
        detached.stop(Home(configured(home=home).home))
        out.print("stopped")


@app.command()
def manifests(
    values: Annotated[Path, typer.Option(help="What the platform is made of; see deploy/kubernetes/values.yaml.")],
    secrets: Annotated[bool, typer.Option("--secrets", help="Only the Secret, with new words: for kubectl create.")] = False,
) -> None:
    """Write Kubernetes manifests, for kubectl apply."""
    with errors():
        # The other commands start without what these import.
        from deploy.kubernetes.manifests import platform, secret  # noqa: PLC0415
        from deploy.kubernetes.parts import to_yaml  # noqa: PLC0415
        from deploy.kubernetes.values import read_values  # noqa: PLC0415

        given = read_values(values)
        print(to_yaml(secret(given)) if secrets else to_yaml(*platform(given)), end="")


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Say what runs, what it learned, and what is away."""
    with errors(), connected(home) as client:
        state = client.status()
        if as_json:
            return print_json(state)
        for what, why in state["away"].items():
            out.print(f"[red]away:[/red] {what}: {why}")
        for worker in (*state["trainers"], *state["controllers"], *state["joiners"], *state["supervisors"]):
            for what, why in worker["away"].items():
                out.print(f"[red]{worker['name']}:[/red] {what}: {why}")
        _print_models(state)


@app.command()
def predict(
    model: Model,
    features: Annotated[str, typer.Argument(help="Features as a JSON object, or - for JSON on standard input.")],
    unit: Annotated[str, typer.Option(help="What stays with its arm: a user, a session.")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for one prediction."""
    with errors(), connected(home) as client:
        instance: dict[str, Any] = {"features": read_json(features)} | ({"unit": unit} if unit else {})
        [answer] = client.predict(model, [instance])
        if as_json:
            return print_json(answer)
        out.print(f"{answer['output']}  version {answer['version']} ({answer['variant']})")
        out.print(f"id {answer['id']}", soft_wrap=True)


@app.command()
def feedback(
    prediction: Annotated[str, typer.Argument(help="The prediction's id.")],
    label: Annotated[str, typer.Argument(help="What was true: a number or a class.")],
    model: Annotated[str, typer.Option(help="The model, where the id was not made by the platform.")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what was true for one prediction."""
    with errors(), connected(home) as client:
        event: dict[str, Any] = {"id": prediction, "label": _label(label)} | ({"model": model} if model else {})
        answer = client.feedback([event])
        print_json(answer) if as_json else out.print("accepted")


@app.command()
def demo(
    until: Annotated[str, typer.Option(help="Last simulated day, YYYY-MM-DD.")] = "2013-05-31",
    seed: Annotated[int, typer.Option(help="Seed of the network's initial weights.")] = 0,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Leave the platform up afterwards.")] = False,
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("report"),
    port: Annotated[int | None, typer.Option(help="Port of the HTTP API.")] = None,
) -> None:
    """Replay the flights of 2013 through the platform and watch it learn."""
    from deploy.demo import run_demo  # noqa: PLC0415 - needs the demo extra

    with errors():
        run_demo(configured(home=Path(".demo"), port=port), until=until, seed=seed, keep_running=keep_running, report=report)


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _label(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return {"true": 1.0, "false": 0.0}.get(text, text)


def _lag(summary: dict[str, float]) -> str:
    """How long labels take: the median, and what one in a hundred exceeds."""
    return f"{duration(summary['p50'])}, p99 {duration(summary['p99'])}" if summary else ""


_FACTS = (
    "epoch", "live", "predictions", "labelled", "label lag", "waiting", "recent loss", "last batch", "unexpected", "replicas",
)  # fmt: skip
_BESIDE = 3
"""Models beside each other where there is no room for all facts in a row."""


def _print_models(state: dict[str, Any]) -> None:
    facts = {name: _facts(state, name) for name in state["models"]}
    table = Table("model", *_FACTS)
    for name, values in facts.items():
        table.add_row(name, *values)
    if Measurement.get(out, out.options.update_width(1000), table).maximum <= out.width:
        out.print(table)
    else:
        names = list(facts)
        for group in (names[start : start + _BESIDE] for start in range(0, len(names), _BESIDE)):
            out.print(_upright({name: facts[name] for name in group}))
    for line in (*_sources(state["models"]), *cli_lines.newest(state["models"]), *cli_drift.newest(state["models"])):
        say(line)


def _upright(facts: dict[str, list[str]]) -> Table:
    table = Table("model", *facts)
    for fact, values in zip(_FACTS, zip(*facts.values(), strict=True), strict=True):
        table.add_row(fact, *values)
    return table


def _facts(state: dict[str, Any], name: str) -> list[str]:
    """What is said of a model, in the order of `_FACTS`."""
    model = state["models"][name]
    counts: dict[str, int] = model["join"].get("counts", {})
    learner = model["learner"]
    lags = {worker["name"]: worker["counters"].get("label_lag", {}) for worker in state["trainers"]}
    applied = [replica["applied"].get(name, {}).get("versions", {}) for replica in state["replicas"]]
    return [
        str(model["epoch"]),
        str(model["channels"].get("main@latest", "-")) if model["trainable"] else "not trainable",
        str(counts.get("predictions", 0)),
        str(counts.get("labelled", 0)),
        _lag(lags.get(f"trainer:{name}", {})),
        str(model["join"].get("since_cut", 0)),
        f"{learner.get('recent_loss', 0.0):.4f}",
        str(learner.get("verdict", "")),
        cli_expectations.unexpected(state["replicas"], name),
        "\n".join(", ".join(f"{variant} {number}" for variant, number in one.items()) for one in applied),
    ]


def _sources(models: dict[str, Any]) -> Iterator[str]:
    """How right each model's sources of labels have lately been, those that are not taken at their word."""
    for name, model in models.items():
        if found := model["learner"].get("sources"):
            said = (f"{source} {right:.0%} (declared {model['sources'][source]:.0%})" for source, right in found.items())
            yield f"{name}: labels are right, by source: {', '.join(said)}"


if __name__ == "__main__":
    app()
