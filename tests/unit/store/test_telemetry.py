"""Nobody is told which models are opened here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["store.artefact", "serving.foreign.examination", "trainer.export", "trainer.compression"])
def test_onnx_runtime_keeps_no_identity_to_report_under(tmp_path: Path, module: str) -> None:
    """Where its telemetry is on, it names this machine in a file as soon as it is imported."""
    suppressing = ("CI", "ORT_DISABLE_TELEMETRY", "TF_BUILD", "GITHUB_ACTIONS")
    environment = {name: value for name, value in os.environ.items() if name not in suppressing}
    environment |= {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", f"import {module}; import onnxruntime"], env=environment, check=True)
    assert not list(tmp_path.rglob("*.ses"))
