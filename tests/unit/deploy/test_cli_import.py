"""A file goes to the platform as it is; what the platform made of it is said, and what is no ONNX file stays here."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploy.conftest import FakePlatform

VERSIONS = "POST /admin/models/click/versions"
ROUTE = f"{VERSIONS}?line=imported"
MADE: dict[str, Any] = {
    "model": "click", "version": 7, "line": "imported", "new": True, "trainable": False, "objective": "binary",
    "features": [{"name": "X", "kind": "vector", "length": 4}, {"name": "age", "kind": "number", "length": 0}],
    "answers": ["main"], "said": ["objective binary, because [output] 'p' is a sigmoid"], "lineage": {"sha256": "ab"},
}  # fmt: skip


@pytest.fixture
def onnx(tmp_path: Path) -> str:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\x08\x0a\xff not JSON")
    return str(file)


def test_a_file_becomes_a_version(platform: FakePlatform, onnx: str) -> None:
    platform.answers[ROUTE] = (201, MADE)
    said = platform.says("import", onnx, "--model", "click")
    assert platform.sent(ROUTE) == b"\x08\x0a\xff not JSON"
    assert "version 7 of model click, line imported" in said
    assert "because [output] 'p' is a sigmoid" in said
    assert "objective binary, features X (4 numbers), age (number); nothing trains it" in said
    assert "it answers as main" in said
    assert json.loads(platform.says("import", onnx, "--model", "click", "--json")) == MADE


def test_what_is_given_goes_along(platform: FakePlatform, onnx: str) -> None:
    route = f"{VERSIONS}?line=old&output=p&objective=multiclass&classes=a%2Cb&why=it+was+good"
    platform.answers[route] = (201, MADE | {"new": False, "answers": []})
    options = ("--line", "old", "--output", "p", "--objective", "multiclass", "--classes", "a,b", "--why", "it was good")
    said = platform.says("import", onnx, "--model", "click", *options)
    assert "it answers nobody yet: 'tidemill experiment start click trial --arm imported=7'" in said
    assert "nothing trains it" not in said


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "M.PICKLE", "m.pt"])
def test_a_pickle_is_not_even_read(platform: FakePlatform, name: str) -> None:
    assert "a pickle runs code when opened" in platform.refuses("import", f"/nowhere/{name}", "--model", "click")
    assert not platform.asked


def test_refusals_are_the_platforms_own_words(platform: FakePlatform, onnx: str) -> None:
    platform.answers[ROUTE] = (422, {"error": "input 'x' has 3 dimensions: [N] and [N, d] are taken"})
    assert "has 3 dimensions" in platform.refuses("import", onnx, "--model", "click")
    assert "No such file" in platform.refuses("import", f"{onnx}.gone", "--model", "click")
    assert "no route" in platform.refuses("import", onnx, "--model", "../x")
    assert platform.asked[-1][0] == "POST /admin/models/..%2Fx/versions?line=imported"


def test_versions_say_where_they_are_from(platform: FakePlatform) -> None:
    def version(number: int, **lineage: str) -> dict[str, Any]:
        return {
            "number": number, "status": "published", "reason": "", "outcomes": 0, "metrics": {}, "lineage": lineage,
        }  # fmt: skip

    found = [
        version(3, sha256="ab", why="it was good", producer="skl2onnx"), version(2, sha256="ab", why="", producer="skl2onnx"),
        version(1, cut="start"),
    ]  # fmt: skip
    platform.answers["GET /admin/models/click/versions?last=20"] = {"versions": found}
    said = platform.says("versions", "click")
    assert all(words in said for words in ("imported: it was good", "imported from skl2onnx", "start"))
