"""Examine a file in a process that can do no harm: limited in memory, time and files, without secrets, and thrown away."""

import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import msgpack
import numpy as np

from serving.errors import Refused
from serving.foreign.question import Examined, Question
from store import tether
from store.protocols import Graph
from store.spec import ModelRecord


@dataclass(frozen=True, slots=True)
class Limits:
    """What an examination may take.

    `memory_bytes` is of address space, and `for_each_byte` of the file so much more is added: what a small file asks for,
    every replica would have to hold.
    """

    memory_bytes: int = 2**30
    for_each_byte: int = 12
    cpu_s: int = 60
    wall_s: float = 120.0


DEFAULT_LIMITS = Limits()


def examine_apart(content: bytes, question: Question, limits: Limits = DEFAULT_LIMITS) -> Examined:
    """Examine a file in a process of its own; blocks until that has ended.

    Raises:
        Refused: it cannot become that version, or took more than it may.
    """
    limits = replace(limits, memory_bytes=limits.memory_bytes + limits.for_each_byte * len(content))
    told = msgpack.packb({"question": question.model_dump_json(), "limits": asdict(limits), "content": content})
    command = [sys.executable, "-P", "-m", "serving.foreign.child"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with tether.spawn(command, cwd="/", env=_environment(), start_new_session=True, **pipes) as process:
        try:
            said, _ = process.communicate(told, timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            raise Refused(f"examining the model took more than {limits.wall_s:g} s: it is too slow to serve") from None
        finally:
            process.kill()
    if process.returncode:
        raise Refused(_ending(process.returncode, limits))
    return _examined(msgpack.unpackb(said))


def _environment() -> dict[str, str]:
    """No more than Python needs to start: nothing in it is worth having."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    names = ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _ending(code: int, limits: Limits) -> str:
    if code == -signal.SIGXCPU:
        return f"examining the model took more than {limits.cpu_s} s of processor time: it is too slow to serve"
    if code == OUT_OF_MEMORY:
        return f"examining the model took more than {limits.memory_bytes / 2**30:.3g} GiB of memory: it is too large to serve"
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    return f"the process that examined the model ended {how}: a model that can do that is not served"


def _examined(said: dict[str, Any]) -> Examined:
    if "refused" in said:
        raise Refused(str(said["refused"]))
    rows, columns = said["shape"]
    return Examined(
        record=ModelRecord.model_validate_json(said["record"]),
        graph=Graph(said["digest"], said["onnx"], said["golden"]),
        weights=said["weights"],
        scores=np.frombuffer(said["scores"], dtype=np.float32).reshape(rows, columns),
        lineage=said["lineage"],
        said=tuple(cast("list[str]", said["said"])),
    )


OUT_OF_MEMORY = 77
"""The status that the process ends with when there is no more memory for it."""
