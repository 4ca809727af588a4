"""`tidemill model`: what is asked of the platform, and what is said of its answers."""

from typing import Any

from tests.unit.deploy.conftest import FakePlatform

MODEL: dict[str, Any] = {
    "model": "click", "spec": "mine:click", "objective": "binary", "trainable": True, "way": None, "loaded": True, "version": 3,
    "experiments": ["trial"], "limits": {}, "replicas": {"serving": 2, "of": 2}, "trainer": {"pid": 7, "problem": ""},
}  # fmt: skip
REMOVED = {"model": "old", "spec": "mine:old", "removed_at": 1_800_000_000.0, "purging": False}


def test_a_spec_is_added_and_waited_for(platform: FakePlatform) -> None:
    platform.answers = {
        "POST /admin/models": (201, MODEL | {"version": None, "replicas": {"serving": 0, "of": 2}}),
        "GET /admin/models": {"models": [MODEL], "removed": []},
    }
    said = platform.says("model", "add", "mine:click", "--why", "for the shop")
    assert "waiting for the first version" in said
    assert "model click answers with version 3" in said
    assert platform.sent("POST /admin/models") == {"spec": "mine:click", "why": "for the shop"}


def test_a_removed_model_is_brought_back_by_its_name(platform: FakePlatform) -> None:
    platform.answers = {"POST /admin/models": (201, MODEL | {"replicas": {"serving": 0, "of": 2}})}
    assert "'tidemill model list' says when it answers" in platform.says("model", "add", "click", "--wait", "0")
    assert platform.sent("POST /admin/models") == {"model": "click"}


def test_a_trainer_that_cannot_start_is_said_at_once(platform: FakePlatform) -> None:
    broken = MODEL | {"replicas": {"serving": 0, "of": 2}, "trainer": {"pid": 7, "problem": "its network is none"}}
    platform.answers = {"POST /admin/models": (201, broken), "GET /admin/models": {"models": [broken], "removed": []}}
    done = platform.run("model", "add", "mine:click")
    assert done.exit_code == 1
    assert "model 'click' is added, but its trainer cannot start: its network is none" in done.stderr


def test_removing_says_what_became_of_the_data(platform: FakePlatform) -> None:
    purged = "DELETE /admin/models/click?purge=true&force=true"
    platform.answers = {
        "DELETE /admin/models/click": {"model": "click", "purged": False},
        purged: {"model": "click", "purged": True},
    }
    assert "'tidemill model add click' brings it back" in platform.says("model", "remove", "click")
    assert "its data are gone" in platform.says("model", "remove", "click", "--purge", "--force")


def test_the_list_shows_who_serves_and_trains_and_what_was_removed(platform: FakePlatform) -> None:
    platform.answers = {"GET /admin/models": {"models": [MODEL], "removed": [REMOVED]}}
    said = platform.says("model", "list")
    for words in ("click", "mine:click", "by 2 of 2 replicas", "process 7", "trial", "old", "removed 20"):
        assert words in said
