"""The process that examines one file: run by `sandbox.py`, told on standard input, answering on standard output."""

import contextlib
import os
import resource
import sys
import tempfile
from typing import Any

import msgpack

from serving.errors import Refused
from serving.foreign.examination import examine
from serving.foreign.question import Examined, Question, readable
from serving.foreign.sandbox import OUT_OF_MEMORY

_FILES = 64


def _go_nowhere() -> None:
    """Work in a directory that is gone: no relative path leads anywhere, and there is none to be left behind."""
    nowhere = tempfile.mkdtemp(prefix="tidemill-import-")
    os.chdir(nowhere)
    os.rmdir(nowhere)


def _limit(limits: dict[str, Any]) -> None:
    """Give up what an examination does not need; nothing of it comes back in this process."""
    cpu_s: int = limits["cpu_s"]
    wanted = {
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (_FILES, _FILES),
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_AS: (limits["memory_bytes"], limits["memory_bytes"]),
    }
    for what, (soft, hard) in wanted.items():
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit of address space; its clocks still run
            resource.setrlimit(what, (soft, hard))
    os.nice(5)


def _answer(examined: Examined) -> dict[str, Any]:
    return {
        "record": examined.record.model_dump_json(),
        "digest": examined.graph.digest,
        "onnx": examined.graph.onnx,
        "golden": examined.graph.golden_inputs,
        "weights": examined.weights,
        "scores": examined.scores.tobytes(),
        "shape": examined.scores.shape,
        "lineage": examined.lineage,
        "said": [readable(sentence) for sentence in examined.said],
    }


def main() -> None:
    # What libraries print must not get into the answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    told: dict[str, Any] = msgpack.unpackb(sys.stdin.buffer.read())
    _go_nowhere()
    question = Question.model_validate_json(told["question"])
    _limit(told["limits"])
    try:
        said = _answer(examine(told["content"], question))
    except Refused as refused:
        said = {"refused": readable(str(refused))}
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    with answers:
        answers.write(msgpack.packb(said) or b"")


if __name__ == "__main__":
    main()
