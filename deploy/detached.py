"""The platform as a process of its own: started in the background, stopped from anywhere."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from deploy.home import AlreadyRunning, Home, Running
from deploy.settings import Settings

_STOP_PATIENCE_S = 30.0


class BackgroundStartFailed(RuntimeError):
    """The background process ended before it was ready; the text ends with its last words."""


def start(settings: Settings, specs: Sequence[str], on_stage: Callable[[str], None]) -> Running:
    """Start a platform that outlives this process; return when it is ready."""
    home = Home(settings.home)
    if running := home.running():
        raise AlreadyRunning(f"a platform is already running in {home.path} at {running.url}, process {running.pid}")
    home.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "deploy.cli", "up", *(f"--spec={spec}" for spec in specs)]
    given = {f"TIDEMILL_{name.upper()}": str(value) for name, value in settings if value is not None}
    log = home.path / "up.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **given},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        return _follow(process, home, on_stage)
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            process.wait(_STOP_PATIENCE_S)
        raise
    except BackgroundStartFailed as error:
        words = log.read_text(errors="replace").strip().splitlines()[-15:]
        raise BackgroundStartFailed(f"{error}; it said:\n" + "\n".join(words)) from None


def _follow(process: "subprocess.Popen[bytes]", home: Home, on_stage: Callable[[str], None]) -> Running:
    stage = ""
    while process.poll() is None:
        running = home.running()
        if running and running.pid == process.pid:
            if running.stage != stage:
                stage = running.stage
                on_stage(stage)
            if running.ready:
                return running
        time.sleep(0.05)
    raise BackgroundStartFailed(f"the platform ended with exit code {process.returncode} before it was ready")


def stop(home: Home) -> None:
    """Stop the platform of a home; return when it is gone.

    Raises:
        NotRunning: there is none.
    """
    pid = home.expect().pid
    for number, patience in ((signal.SIGTERM, _STOP_PATIENCE_S), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if home.running() is None:
                return
            time.sleep(0.05)
