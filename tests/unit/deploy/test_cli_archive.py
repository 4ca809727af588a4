"""`tidemill archive`: what is kept for good, for people and for scripts."""

import json
from pathlib import Path

from typer.testing import CliRunner

from deploy.cli import app
from store.archive import Archive
from store.records import Outcome, Served
from store.schema import FeatureField, Schema

FEATURES = Schema(fields=(FeatureField(name="amount", kind="number"),))
DAY_S = 86_400.0


def _keep(folder: Path) -> None:
    outcomes = [
        Outcome(str(day), "", [1.0], [0.5], Served("main", 1, 1.0), 1.0, "label", True, day * DAY_S, 0.0, 0.0)
        for day in (1, 1, 2)
    ]
    with Archive(folder, "click", FEATURES) as archive:
        archive.write("1-0", "3-0", [(f"{number}-0", outcome) for number, outcome in enumerate(outcomes, start=1)])


def test_days_are_counted(tmp_path: Path) -> None:
    _keep(tmp_path / "archive")
    said = CliRunner().invoke(app, ["archive", "click", "--home", str(tmp_path), "--json"])
    counted = {day["day"]: day["outcomes"] for day in json.loads(said.stdout)["days"]}
    assert counted == {"1970-01-02": 2, "1970-01-03": 1}
    said = CliRunner().invoke(app, ["archive", "click", "--folder", str(tmp_path / "archive")])
    assert "1970-01-02" in said.stdout
    assert "3 outcomes in" in said.stdout


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["archive", "click", "--home", str(tmp_path)])
    assert "nothing of model click is archived" in said.stdout
    assert said.exit_code == 0
