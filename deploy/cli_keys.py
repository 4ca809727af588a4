"""Commands on API keys: who may ask for predictions, or operate, from where keys are needed."""

from datetime import UTC, datetime
from time import time
from typing import Annotated, Any

import typer
from rich.table import Table

from deploy.cli_terminal import HomeOption, JsonOption, configured, connected, err, errors, out, print_json, table
from deploy.home import Home
from store.keys import Limits, Role, issue

key_app = typer.Typer(no_args_is_help=True, help="Keys of applications and operators.")

Id = Annotated[str, typer.Argument(help="The key's id; 'tidemill key list' shows it.")]


@key_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose it is; it stands in the audit record.")],
    role: Annotated[str, typer.Option(help="predict, viewer, operator or admin.")] = "predict",
    model: Annotated[list[str] | None, typer.Option(help="A model that it is for; repeatable. Default: all.")] = None,
    requests_s: Annotated[float | None, typer.Option(help="Requests a second that it may send.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at a time.")] = None,
    instances: Annotated[int | None, typer.Option(help="Instances in one request.")] = None,
    body_bytes: Annotated[int | None, typer.Option(help="Bytes of one request.")] = None,
    days: Annotated[float | None, typer.Option(help="It ends after as many days.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it: it is shown this once."""
    limits: dict[str, Any] = {
        "requests_s": requests_s, "concurrency": concurrency, "instances": instances, "body_bytes": body_bytes,
    }  # fmt: skip
    with errors():
        place = Home(configured(home=home).home)
        if place.running() is None:
            _made(_before_the_start(place, name, role, tuple(model or ()), limits, days), as_json)
            return err.print("It is good from the next 'tidemill up' on.")
        with connected(home) as client:
            wanted = {"name": name, "role": role, "models": model or [], "limits": limits, "days": days}
            return _made(client.create_key(wanted), as_json)


def _before_the_start(
    home: Home, name: str, role: str, models: tuple[str, ...], limits: dict[str, Any], days: float | None
) -> dict[str, Any]:
    if role not in ("predict", "viewer", "operator", "admin"):
        raise ValueError(f"--role {role}: predict, viewer, operator or admin")
    if days is not None and not 0 < days <= 36_500:
        raise ValueError(f"--days {days:g}: more than 0, at most 36500")
    kind: Role = role
    now = time()
    key, text = issue(name, kind, models, Limits(**limits), now, now + days * 86_400.0 if days is not None else None)
    home.keep_key(key)
    return key.model_dump(exclude={"digest"}) | {"key": text}


@key_app.command("list")
def list_keys(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show all keys, without what opens them."""
    with errors(), connected(home) as client:
        keys = client.keys()
        return print_json(keys) if as_json else out.print(_table(keys))


@key_app.command("rotate")
def rotate(
    key: Id,
    overlap_s: Annotated[float, typer.Option(min=0.0, help="Seconds for which the old one is still good.")] = 3600.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key like this one and print it; the old one ends after the overlap."""
    with errors(), connected(home) as client:
        return _made(client.rotate_key(key, overlap_s), as_json)


@key_app.command("revoke")
def revoke(key: Id, home: HomeOption = None) -> None:
    """End a key at once."""
    with errors(), connected(home) as client:
        gone = client.drop_key(key)
        out.print(f"key {gone['id']} of {gone['name']} has ended")


def _made(key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(key)
    err.print(f"Key {key['id']} of {key['name']}, {key['role']}. It is shown this once:")
    print(key["key"])
    return None


def _table(keys: list[dict[str, Any]]) -> Table:
    rows = [
        (
            key["id"], key["name"], key["role"], ", ".join(key["models"]) or "all",
            ", ".join(f"{name} {value:g}" for name, value in key["limits"].items() if value is not None) or "none",
            _day(key["created_at"]), _day(key["expires_at"]) if key["expires_at"] else "never",
        )
        for key in keys
    ]  # fmt: skip
    return table(("id", "name", "role", "models", "limits", "made", "ends"), rows)


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
