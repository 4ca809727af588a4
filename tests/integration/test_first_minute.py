"""A newcomer follows the README: every command and snippet in it runs as written, on a platform of its own."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deploy.testing import TestPlatform, platform_in, until

pytestmark = pytest.mark.ray

README = (Path(__file__).parents[2] / "README.md").read_text()


def _block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if containing in block)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPlatform]:
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "my_model.py").write_text(_block("python", "ModelSpec"))
    with platform_in(folder) as place:
        start, *_ = _commands()
        assert start[:2] == ["tidemill", "up"]
        place.command(*start[1:])
        yield place


def _commands() -> list[list[str]]:
    return [shlex.split(line) for line in _block("sh", "tidemill up --spec").splitlines() if line]


def _predicted(platform: TestPlatform, *more: str) -> dict[str, Any]:
    command = next(words for words in _commands() if words[1] == "predict")
    return json.loads(platform.command(*command[1:], *more, "--json"))


def test_its_commands_run_in_the_order_in_which_they_stand(platform: TestPlatform) -> None:
    answer = _predicted(platform)
    assert 0.0 < answer["output"]["probability"] < 1.0
    for words in _commands()[2:-1]:
        printed = platform.command(*(answer["id"] if word == "click:…" else word for word in words[1:]))
        assert printed.strip()
    assert _commands()[-1] == ["tidemill", "down"]


def test_its_requests_get_the_answers_that_stand_under_them(platform: TestPlatform) -> None:
    answers: list[dict[str, Any]] = []
    for command in re.findall(r"curl -s [^#]*", _block("sh", "curl -s localhost:8000/models/click")):
        _, _, url, _, body = shlex.split(command)
        sent = json.loads(body)
        if "events" in sent:
            sent["events"][0]["id"] = answers[0]["predictions"][0]["id"]
        reply = httpx.post(f"{platform.url}/{url.split('/', 1)[1]}", json=sent)
        assert reply.is_success, reply.text
        answers.append(reply.json())
    predicted, accepted = answers
    assert set(predicted["predictions"][0]) == {"id", "output", "variant", "version"}
    assert accepted == {"accepted": 1, "rejected": []}


def test_its_policy_can_be_set_and_keeps_units_with_their_arms(platform: TestPlatform) -> None:
    policy = _block("json", "variants").replace('"version": 12', '"version": 1')
    (platform.folder / "policy.json").write_text(policy)
    assert "is on every replica" in platform.command("policy", "set", "click", "policy.json")
    assert "shadow watch" in platform.command("policy", "show", "click")
    assert len({_predicted(platform)["variant"] for _ in range(3)}) == 1
    stale = platform.command("policy", "set", "click", "policy.json", "--epoch=0", check=False)
    assert "is at epoch" in stale


def test_the_join_counts_what_was_predicted(platform: TestPlatform) -> None:
    with platform.client() as client:
        until(lambda: client.status()["models"]["click"]["join"]["counts"]["predictions"] >= 1, "the join has read it")


def test_a_second_up_says_that_one_is_running(platform: TestPlatform) -> None:
    said = platform.command("up", "--spec", "my_model:spec", check=False)
    assert "already running" in said
    assert str(platform.running.pid) in said


def test_the_schedule_is_shown_and_changed(platform: TestPlatform) -> None:
    assert "every 2 s" in platform.command("schedule", "click")
    assert "every 500 outcomes" in platform.command("schedule", "click", "--outcomes=500")
    [command] = _block("sh", "tidemill schedule").splitlines()
    assert "At 03:30 on Monday through Friday (Europe/Berlin)" in platform.command(*shlex.split(command)[1:])
    assert "4 fields" in platform.command("schedule", "click", "--cron=0 3 * *", check=False)
    assert "by hand" in platform.command("schedule", "click", "--by-hand")


def test_expectations_are_shown_edited_and_inferred_again(platform: TestPlatform) -> None:
    show, as_json, edit, infer = [shlex.split(line) for line in _block("sh", "tidemill expectations").splitlines()]
    assert "nothing is expected" in platform.command(*show[1:])
    state = json.loads(platform.command(*as_json[1 : as_json.index(">")]))
    state["expectations"] = [{"feature": "price", "kind": "range", "low": 0}]
    (platform.folder / "expected.json").write_text(json.dumps(state))
    assert "at least 0" in platform.command(*edit[1:])
    assert "are at revision 1, not 0" in platform.command(*edit[1:], check=False)
    assert "nothing is expected" in platform.command(*infer[1:])


def test_a_replica_never_loads_torch(platform: TestPlatform) -> None:
    for pid in platform.pids("replicas"):
        assert not [mapped.path for mapped in psutil.Process(pid).memory_maps() if "torch" in mapped.path]
    for pid in platform.pids("trainers"):
        assert [mapped.path for mapped in psutil.Process(pid).memory_maps() if "libtorch" in mapped.path]


def test_metrics_of_replicas_and_trainers_stand_on_one_page(platform: TestPlatform) -> None:
    def shown() -> bool:
        page = httpx.get(f"{platform.url}/metrics").text
        wanted = ("tidemill_predictions_total", "tidemill_freshness_seconds", "tidemill_trainer_version")
        return all(name in page for name in wanted)

    until(shown, "all metrics")


def test_its_recipe_makes_a_model_of_scikit_learn_one_that_answers_and_is_labelled(platform: TestPlatform) -> None:
    recipe = [sys.executable, "-c", _block("python", "skl2onnx")]
    subprocess.run(recipe, cwd=platform.folder, check=True, timeout=300)
    imported, asked = [shlex.split(line) for line in _block("sh", "tidemill import").splitlines()]
    said = platform.command(*imported[1:])
    assert "version 1 of model iris" in said
    assert "it answers as main" in said
    answer = json.loads(platform.command(*asked[1:], "--json"))
    assert answer["output"]["class"] == "setosa"
    platform.command("feedback", answer["id"], "setosa")
    assert "'iris' was imported and has no trainer" in platform.command("retrain", "iris", check=False)
    with platform.client() as client:
        until(lambda: client.status()["models"]["iris"]["join"]["counts"]["labelled"] == 1, "its label is joined")
        assert [one["name"] for one in client.status()["joiners"]] == ["joiner"]


def test_what_is_wrong_is_said_in_one_line(platform: TestPlatform) -> None:
    for words in (
        ("predict", "nothing", "{}"),
        ("predict", "click", "{"),
        ("predict", "click", '{"country": 5}'),
        ("feedback", "no-such-form", "1"),
        ("retrain", "nothing"),
        ("policy", "set", "click", "no-such-file.json"),
        ("status", "--home", "nowhere"),
        ("up", "--spec", "no_such_module:spec", "--home", "elsewhere"),
    ):
        said = platform.command(*words, check=False)
        assert "error:" in said, words
        assert "Traceback" not in said, words
