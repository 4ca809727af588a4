"""A platform that others than its own machine can reach."""

import json
from pathlib import Path

import pytest

from deploy.client import ApiError, Client
from deploy.testing import platform_in

pytestmark = pytest.mark.chaos


def test_it_needs_keys_to_start_and_to_answer(tmp_path: Path) -> None:
    with platform_in(tmp_path) as place:
        up = ("up", "--detach", "--host", "0.0.0.0", "--spec", "examples.vector:spec")
        refused = place.command(*up, check=False)
        assert "predictions at 0.0.0.0 need a key, and there is none" in refused
        assert "tidemill key create" in refused
        assert not place.home.running()
        said = place.command("key", "create", "app", "--json")
        key = json.loads(said[: said.rindex("}") + 1])["key"]
        place.command(*up)
        instances = [{"features": {"x": [0.5] * 32}}]
        with Client(place.url) as anybody, pytest.raises(ApiError) as caught:
            anybody.predict("vector", instances)
        assert caught.value.status == 401
        with Client(place.url, key) as application:
            assert application.predict("vector", instances)[0]["variant"] == "main"
        # What was made before the start is on the ring, and nowhere else.
        assert place.home.kept_keys() == []
        assert "app" in place.command("key", "list")


def test_trainers_that_are_to_have_gpus_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_TRAINER_GPUS", "99")
    with platform_in(tmp_path) as place:
        refused = place.command("up", "--detach", "--spec", "examples.vector:spec", check=False)
        assert "TIDEMILL_TRAINER_GPUS is 99, and Ray sees" in refused
        assert not place.home.running()
