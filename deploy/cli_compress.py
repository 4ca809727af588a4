"""`tidemill compress`: quantised and compressed versions of a version, measured beside it."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer
from rich.text import Text

from deploy.cli_terminal import HomeOption, JsonOption, Model, configured, errors, out, print_json, say, table
from deploy.home import Home
from store.redis_store import RedisStore
from store.spec import Compression

if TYPE_CHECKING:
    from deploy.compressing import Candidate, Found

METHODS: tuple[str, ...] = tuple(name for name in get_args(Compression) if name)
_WORDS = {
    "auc": "AUC", "log_loss": "log loss", "calibration_error": "ECE", "squared_error": "squared error",
    "absolute_error": "absolute error", "r2": "R²", "agreement": "agrees", "max_difference": "max diff",
}  # fmt: skip


def compress(
    model: Model,
    version: Annotated[int | None, typer.Option(help="Which version; default the newest one.")] = None,
    method: Annotated[list[str] | None, typer.Option(help=f"{', '.join(METHODS)}; repeatable; default all.")] = None,
    chooses: Annotated[bool, typer.Option("--choose", help="Publish the fastest that is good enough, and no other.")] = False,
    max_loss: Annotated[
        float, typer.Option(min=0.0, help="With --choose: how much log loss or squared error may grow, as a share.")
    ] = 0.01,
    batch: Annotated[Literal["1", "32", "512"], typer.Option(help="With --choose: rows that the fastest is fastest at.")] = "1",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and publish nothing.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version smaller or faster: compress it, measure it beside its parent, publish it on a line of its own."""
    with errors():
        methods = _methods(method or METHODS)
        settings = configured(home=home)
        url = Home(settings.home).expect().redis_url
        limit = max_loss if chooses else None
        found = asyncio.run(_compress(url, settings.prefix, model, version, methods, limit, int(batch), not dry_run))
        if as_json:
            return print_json(found.as_json())
        _print(found)
        if chooses:
            say(_choice(found, max_loss, int(batch)))
        for candidate in found.candidates[1:]:
            if candidate.version:
                how = "is the same as" if candidate.before else "published as"
                say(f"{candidate.method}: {how} version {candidate.version} on line {candidate.line}")


def _methods(given: Sequence[str]) -> list[str]:
    if unknown := [name for name in given if name not in METHODS]:
        raise ValueError(f"--method {unknown[0]}: there are {', '.join(METHODS)}")
    return [name for name in METHODS if name in given]


async def _compress(
    url: str,
    prefix: str,
    model: str,
    version: int | None,
    methods: list[str],
    max_loss: float | None,
    batch: int,
    publish: bool,
) -> "Found":
    from deploy.compressing import Workshop, choose  # noqa: PLC0415 - quantisers and statistics, which take long to import

    store = RedisStore(url, prefix)
    try:
        workshop = Workshop(store, model)
        found = await workshop.measure(version, methods)
        if max_loss is not None:
            found.chosen = choose(found, max_loss, batch)
        if publish:
            await workshop.publish(found, methods if max_loss is None else [found.chosen])
        return found
    finally:
        await store.close()


def _print(found: "Found") -> None:
    measured = [name for name in _WORDS if any(name in one.quality for one in found.candidates)]
    batches = list(found.candidates[0].latency_s)
    columns = ("method", "size", *(f"{batch} rows" if batch > 1 else "1 row" for batch in batches))
    quality = f"quality on {found.outcomes:,} labelled predictions" if found.outcomes else "no quality measured: no labels yet"
    say(f"{found.model}, version {found.version} and its children: median latency, the parent's speed being 1; {quality}")
    rows = [_row(one, batches, measured) for one in found.candidates if not one.why_not]
    out.print(table((*columns, *(_WORDS[name] for name in measured), *(("loss",) if measured else ())), rows))
    for one in found.candidates:
        if one.why_not:
            say(f"{one.method}: not applicable: {one.why_not}")
    for one in found.candidates[1:]:
        if slower := [str(batch) for batch, speed in one.speed.items() if speed < 1.0]:
            say(f"{one.method} is slower than its parent at {', '.join(slower)} rows")


def _row(one: "Candidate", batches: list[int], measured: list[str]) -> list[str | Text]:
    cells: list[str | Text] = [one.method, f"{one.bytes / 1024:,.0f} KiB"]
    for batch in batches:
        speed = one.speed[batch]
        style = "" if one.is_parent else "green" if speed > 1.0 else "red"
        ratio = "" if one.is_parent else f" {speed:.2f} times"
        cells.append(Text.assemble(f"{one.latency_s[batch] * 1000:.3f} ms", (ratio, style)))
    cells += [f"{one.quality[name]:.4g}" if name in one.quality else "" for name in measured]
    if measured:
        cells.append("" if one.is_parent or one.loss is None else f"{one.loss:+.2%}")
    return cells


def _choice(found: "Found", max_loss: float, batch: int) -> str:
    where = f"at {batch} rows" if batch > 1 else "at 1 row"
    if found.chosen == found.candidates[0].method:
        faster = f"a tenth faster than version {found.version} {where}"
        return f"none is {faster} and loses at most {max_loss:.2%}: nothing is published"
    return f"{found.chosen} is the fastest {where} of those that lose at most {max_loss:.2%}"
