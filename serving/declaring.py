"""A model's declaration, read apart: a process of its own imports the user's module, so that whoever asks neither runs it nor
keeps it, and reads it anew each time.

This is no sandbox: a module that is named here runs, as it will in its trainer, with all that the platform may do.
"""

import os
import signal
import subprocess
import sys
from typing import Any

from pydantic import BaseModel

from store import tether
from store.errors import SchemaError, SpecError
from store.spec import ModelRecord, declared

PATIENCE_S = 120.0


class _Said(BaseModel):
    """What the process says: a record, or why there is none."""

    record: ModelRecord | None = None
    refused: str = ""


def declared_apart(path: str, patience_s: float = PATIENCE_S) -> ModelRecord:
    """Return what is to be kept of the spec at `package.module:attribute`; blocks until the process has ended.

    Raises:
        SpecError: nothing is there, it cannot be imported here, or it is no ModelSpec.
    """
    command = [sys.executable, "-P", "-m", "serving.declaring", path]
    # The same import path as that of trainers, which Ray starts as it started this process.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)}
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with tether.spawn(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            told, _ = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            raise SpecError(f"spec '{path}': importing it took more than {patience_s:g} s") from None
        finally:
            process.kill()
    if process.returncode or not told:
        raise SpecError(f"spec '{path}': the process that imported it ended {_ending(process.returncode)}")
    said = _Said.model_validate_json(told)
    if said.record is None:
        raise SpecError(said.refused)
    return said.record


def _ending(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"


def _say(path: str) -> None:
    """Write what was found, and nothing that the module prints, to standard output."""
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        said = _Said(record=declared(path))
    except (SpecError, SchemaError) as error:
        said = _Said(refused=str(error))
    with open(answer, "w") as out:
        out.write(said.model_dump_json())


if __name__ == "__main__":
    _say(sys.argv[1])
