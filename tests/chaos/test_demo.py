"""The demo from its first line to its last on a few days of flights, and interrupted in the middle of its search."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deploy.testing import alive, until

pytestmark = pytest.mark.chaos

_PATIENCE_S = 500.0


@contextmanager
def _demo(folder: Path, last_day: str) -> Generator["subprocess.Popen[bytes]"]:
    """A demo in a session of its own, whose words go to demo.log; killed with all that it started if it still runs."""
    with (folder / "demo.log").open("wb") as log:
        command = [sys.executable, "-m", "deploy.cli", "demo", f"--until={last_day}"]
        process = subprocess.Popen(command, cwd=folder, env=_environment(), stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            process.wait()


def _environment() -> dict[str, str]:
    here = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]), "COLUMNS": "200"}


def test_a_way_that_a_search_found_is_tried_as_a_line_and_made_main_or_retired(tmp_path: Path) -> None:
    with _demo(tmp_path, "2013-01-06") as process:
        assert process.wait(_PATIENCE_S) == 0, (tmp_path / "demo.log").read_text()
    said = (tmp_path / "demo.log").read_text()
    assert "The best of 8 ways to learn: " in said
    assert "over the same " in said
    assert "in the audit: promote line: it loses less" in said or "in the audit: retire line: " in said
    assert "A better way to learn" in (tmp_path / "report" / "report.html").read_text()


def test_interrupted_in_its_search_it_leaves_nothing_running(tmp_path: Path) -> None:
    with _demo(tmp_path, "2013-01-03") as process:
        trials = tmp_path / ".demo" / "tuning" / "flight-delay" / "0001" / "trials"
        until(lambda: any(trials.glob("*.1")), "the search has learned something", _PATIENCE_S)
        everyone = psutil.Process(process.pid).children(recursive=True)
        # As a terminal does: to all of the foreground.
        for one in [process, *(child for child in everyone if "tune" in child.cmdline())]:
            one.send_signal(signal.SIGINT)
        assert process.wait(120.0) != 0
    until(lambda: not alive(everyone), "all that it started has ended", 60.0)
