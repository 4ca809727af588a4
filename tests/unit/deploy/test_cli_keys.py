"""`tidemill key`: made on a running platform, or before it starts; shown once."""

import json
import stat
from typing import Any

from typer.testing import CliRunner

from deploy.cli import app
from deploy.home import Home
from store.keys import parts_of
from tests.unit.deploy.conftest import FakePlatform

KEY: dict[str, Any] = {
    "id": "ab12", "name": "shop", "role": "predict", "models": ["click"], "limits": {"requests_s": 50.0, "concurrency": None},
    "created_at": 1_800_000_000.0, "expires_at": None,
}  # fmt: skip


def test_a_key_is_made_with_its_limits_and_printed_once(platform: FakePlatform) -> None:
    platform.answers = {"POST /admin/keys": (201, KEY | {"key": "tm_ab12_secret"})}
    said = platform.says("key", "create", "shop", "--model", "click", "--requests-s", "50", "--days", "30")
    assert said.count("tm_ab12_secret") == 1
    sent = platform.sent("POST /admin/keys")
    assert (sent["name"], sent["role"], sent["models"], sent["days"]) == ("shop", "predict", ["click"], 30.0)
    assert sent["limits"]["requests_s"] == 50.0


def test_keys_are_listed_rotated_and_ended(platform: FakePlatform) -> None:
    platform.answers = {
        "GET /admin/keys": {"keys": [KEY]},
        "POST /admin/keys/ab12/rotate": (201, KEY | {"id": "cd34", "key": "tm_cd34_new"}),
        "DELETE /admin/keys/ab12": KEY,
    }
    listed = platform.says("key", "list")
    assert "ab12" in listed
    assert "requests_s 50" in listed
    assert "tm_cd34_new" in platform.says("key", "rotate", "ab12", "--overlap-s", "60")
    assert platform.sent("POST /admin/keys/ab12/rotate") == {"overlap_s": 60.0}
    assert "key ab12 of shop has ended" in platform.says("key", "revoke", "ab12")


def test_a_key_can_be_made_before_the_platform_starts(platform: FakePlatform) -> None:
    home = platform.home / "elsewhere"
    done = CliRunner().invoke(app, ["key", "create", "shop", "--concurrency", "4", "--home", str(home), "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    parts = parts_of(made["key"])
    assert parts is not None
    [kept] = Home(home).kept_keys()
    assert kept.opens(parts[1], now=0.0)
    assert kept.limits.concurrency == 4
    text = (home / "new-keys").read_text()
    assert parts[1] not in text
    assert stat.S_IMODE((home / "new-keys").stat().st_mode) == 0o600
    Home(home).drop_kept_keys()
    assert Home(home).kept_keys() == []
    refused = CliRunner().invoke(app, ["key", "create", "shop", "--role", "root", "--home", str(home)])
    assert refused.exit_code == 1
    assert "--role root: predict, viewer, operator or admin" in refused.stderr
