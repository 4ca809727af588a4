"""A replica that is killed while it has a file examined leaves no process and no file behind."""

import os
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

_EXAMINE_FOR_EVER = """
import numpy as np
from onnx import TensorProto, helper
from serving.foreign.question import Question
from serving.foreign.sandbox import examine_apart
from serving.foreign.testing import model, value

body = helper.make_graph(
    [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Cos", ["v"], ["w"])],
    "turn",
    [value("turn", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("v", ["N", 1])],
    [value("on", [], TensorProto.BOOL), value("w", ["N", 1])],
)
constants = {"turns": np.array(10**15), "go": np.array(True)}
nodes = [helper.make_node("Loop", ["turns", "go", "x"], ["p"], body=body)]
content = model(nodes, [value("x", ["N", 1])], [value("p", ["N", 1])], constants).SerializeToString()
examine_apart(content, Question(name="m"))
"""


def _at_work(process: psutil.Process) -> psutil.Process | None:
    """The process that examines, once it is where no file is."""
    for child in process.children():
        if "serving.foreign.child" in child.cmdline() and os.readlink(f"/proc/{child.pid}/cwd").endswith("(deleted)"):
            return child
    return None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says where a process works")
def test_an_examination_ends_with_the_replica_that_asked_for_it(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", _EXAMINE_FOR_EVER], env=environment) as replica:
        try:
            until, child = monotonic() + 30, None
            while child is None and monotonic() < until:
                child = _at_work(psutil.Process(replica.pid))
                sleep(0.05)
        finally:
            replica.kill()
    assert child is not None
    child.wait(timeout=30)
    assert not list(tmp_path.iterdir())
