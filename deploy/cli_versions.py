"""`tidemill versions`: what a model learned, what each version comes from, and one of them learned again."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
from typer.core import TyperGroup

from deploy.cli_terminal import (
    HomeOption,
    JsonOption,
    Model,
    configured,
    connected,
    err,
    errors,
    import_from_here,
    out,
    print_json,
    say,
    table,
)
from deploy.cli_words import moment
from deploy.home import Home
from store.errors import NotFound
from store.redis_store import RedisStore
from store.spec import load_spec
from trainer.giving_way import give_way

if TYPE_CHECKING:
    from trainer.lineage.reproduction import Reproduction

_LOSSES = {"loss": "loss before learning", "recent_loss": "recent loss"}

Number = Annotated[int, typer.Argument(help="The version's number.", min=1)]


class _OrList(TyperGroup):
    """`versions MODEL` lists; a model that is called like a command is listed by `versions list MODEL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["list", *args]
        return super().parse_args(ctx, args)


versions_app = typer.Typer(
    cls=_OrList, no_args_is_help=True, help="List a model's newest versions (versions MODEL); show or reproduce one."
)


@versions_app.command("list")
def versions(
    model: Model,
    last: Annotated[int, typer.Option(help="How many.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a model's newest versions."""
    with errors(), connected(home) as client:
        found = client.versions(model, last)
        if as_json:
            return print_json(found)
        out.print(table(("version", "status", "outcomes", *_LOSSES.values(), "gates", "because of"), map(_row, found)))


@versions_app.command("show")
def show(model: Model, number: Number, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show where a version comes from: parent, log, data, hyperparameters, environment."""
    with errors(), connected(home) as client:
        found = client.version(model, number)
        if as_json:
            return print_json(found)
        for name, value in _lines(found):
            say(f"{name:<20} {value}")


@versions_app.command("reproduce")
def reproduce(
    model: Model,
    number: Number,
    archive: Annotated[Path | None, typer.Option(help="Where the archive is, if not in the home [TIDEMILL_ARCHIVE].")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn a version again, from the first outcome of its learner on, and compare its weights bit for bit."""
    with errors():
        settings = configured(home=home, archive=archive)
        url = Home(settings.home).expect().redis_url
        give_way()
        with Progress(console=err, transient=True, disable=as_json) as progress:
            task = progress.add_task("learning again", total=None)

            def tell(done: int, of: int) -> None:
                progress.update(task, completed=done, total=of)

            found = asyncio.run(_reproduce(url, settings.prefix, model, number, settings.archive_folder, tell))
        if as_json:
            print_json(found.as_json())
        else:
            say(_result(found))
        if not found.same:
            raise typer.Exit(1)


async def _reproduce(
    url: str, prefix: str, model: str, number: int, archive: Path, tell: Callable[[int, int], None]
) -> "Reproduction":
    store = RedisStore(url, prefix)
    try:
        record = (await store.models()).get(model)
        if record is None:
            raise NotFound(f"no model '{model}'")
        if not record.source:
            raise ValueError(f"nothing trains model '{model}': its versions were made elsewhere")
        import_from_here()
        from trainer.lineage.reproduction import reproduce as learn_again  # noqa: PLC0415 - torch, slow to import

        return await learn_again(load_spec(record.source), store, number, archive, tell)
    finally:
        await store.close()


def _result(found: "Reproduction") -> str:
    what = f"{found.replayed:,} versions, {found.outcomes:,} outcomes learned again"
    if found.same:
        return f"version {found.version} comes out the same, bit for bit ({what}): weights {found.learned[:16]}"
    return (
        f"version {found.version} does not come out the same ({what}): the weights of version {found.first_different} "
        f"are the first that differ; its own are {found.learned[:16]}, on record {found.recorded[:16]}"
    )


def _lines(version: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known of a version, each thing by its name; what is on record of one kind of version only comes last."""
    lineage: dict[str, Any] = dict(version["lineage"])
    learning: dict[str, Any] = lineage.pop("learning", {})
    environment: dict[str, Any] = lineage.pop("environment", {})
    state = version["status"] + (f": {version['reason']}" if version["reason"] else "")
    lines = [
        ("version", f"{version['number']} of {version['model']}, line {version['line']}"),
        ("status", state),
        ("parent", str(version["parent"] or "none")),
        ("made", moment(version["created_at"])),
        ("because of", _origin(version)),
        ("outcomes", f"{version['outcomes']:,}"),
        ("outcome stream", f"up to {version['position']}"),
        ("log", f"joined up to {version['log_position']}"),
        ("weights", version["weights"][:16] or "none"),
        ("graph", version["graph"][:16]),
        ("declaration", version["spec"] or "none"),
        *((name.replace("_", " "), f"{value:.6g}") for name, value in version["metrics"].items()),
        *((name.replace("_", " "), _plain(value)) for name, value in learning.items()),
        *((name.replace("_", " "), _plain(value)) for name, value in environment.items()),
    ]
    lineage.pop("cut", None)
    return lines + [(name.replace("_", " "), _plain(value)) for name, value in lineage.items() if value not in ("", None)]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return json.dumps(value) if isinstance(value, list) else str(value)


def _row(version: dict[str, Any]) -> tuple[str, ...]:
    losses = [f"{version['metrics'][key]:.4f}" if key in version["metrics"] else "" for key in _LOSSES]
    state = version["status"] + (f": {version['reason']}" if version["reason"] else "")
    return str(version["number"]), state, str(version["outcomes"]), *losses, _gates(version), _origin(version)


def _gates(version: dict[str, Any]) -> str:
    """Which gates a version was asked for, what was found of its quality, and what is remarkable in its slices."""
    evidence: dict[str, Any] = version["lineage"].get("gates", {}).get("evidence", {})
    found = {name: "" for name in evidence}
    if about := evidence.get("quality"):
        found["quality"] = f" {about['loss']:.4f} after {about['before']:.4f}"
    if about := evidence.get("calibration"):
        found["calibration"] = f" {about['error']:.3f}"
    remarks = evidence.get("slices", {}).get("paradox", [])
    return "; ".join([", ".join(f"{name}{said}" for name, said in found.items()), *remarks])


def _origin(version: dict[str, Any]) -> str:
    """Why a version was made: what ended its micro-batch, or what the one who imported it said."""
    lineage: dict[str, Any] = version["lineage"]
    if "sha256" not in lineage:
        return lineage.get("cut", "")
    return f"imported: {lineage['why']}" if lineage.get("why") else f"imported from {lineage['producer'] or 'an ONNX file'}"
