"""Two workers on one Ray: the same bits whenever they learn the same, and a model as good as one worker's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.unit.trainer.retraining.simulated import SOURCE, archive, spec
from trainer.retraining.plan import Plan

pytestmark = pytest.mark.chaos

ROWS = 3_000
_RETRAIN = """
import json, os, sys
from pathlib import Path
from deploy.cluster import start_ray, stop_ray
from deploy.serve_settings import free_ports
from trainer.retraining import course
from trainer.retraining.plan import Plan

plan, folder = Plan.model_validate_json(sys.argv[1]), Path(sys.argv[2])
figures = {"one": course.carry_out(plan.model_copy(update={"workers": 1}), b"")}
cluster = start_ray(port=free_ports(1)[0], use_haproxy=False)
try:
    from trainer.retraining import workers
    told = []
    figures["two"] = workers.carry_out(plan, b"", lambda *done: told.append(done))
    figures["again"] = workers.carry_out(plan, b"")
finally:
    stop_ray(cluster)
for name, learnt in figures.items():
    (folder / name).write_bytes(learnt.weights)
print(json.dumps({"loss": {name: learnt.loss for name, learnt in figures.items()}, "told": told[-1]}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The weights of one worker, of two, and of two again; what they measured."""
    folder = tmp_path_factory.mktemp("workers")
    archive(folder / "archive", ROWS)
    plan = Plan(
        model="m", source=SOURCE, learning=spec.learning, folder=str(folder / "archive"), outcomes=ROWS, workers=2, passes=2
    )
    command = [sys.executable, "-W", "ignore", "-c", _RETRAIN, plan.model_dump_json(), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_two_workers_come_to_the_same_bits_again(found: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = found
    assert (folder / "two").read_bytes() == (folder / "again").read_bytes()
    assert figures["loss"]["two"] == figures["loss"]["again"]


def test_two_workers_learn_as_well_as_one(found: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = found
    assert figures["loss"]["two"] == pytest.approx(figures["loss"]["one"], rel=0.01)
    assert figures["loss"]["two"] < 0.6  # 0.69 knows nothing
    one, two = (load_file(folder / name) for name in ("one", "two"))
    for name in ("network.standardise.mean", "network.standardise.variance"):
        assert np.allclose(one[name], two[name], rtol=1e-5), name


def test_progress_is_told(found: tuple[Path, dict[str, Any]]) -> None:
    assert found[1]["told"][1] == 2 * ROWS
    assert 0 < found[1]["told"][0] <= 2 * ROWS
