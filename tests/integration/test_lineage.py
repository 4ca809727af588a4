"""On a running platform: where a version comes from, the same version learned again, and one retrained from the archive."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.testing import TestPlatform, platform_in, until

pytestmark = pytest.mark.chaos

MODEL = '''
"""A model of one number."""

from pydantic import BaseModel

from store.spec import Learning, ModelSpec, Schedule


class Features(BaseModel):
    x: float


spec = ModelSpec(name="one", features=Features, schedule=Schedule(seconds=None), learning=Learning(seed=5))
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPlatform]:
    """A platform whose model has learned three times; all of its outcomes are archived."""
    folder = tmp_path_factory.mktemp("lineage")
    (folder / "one_model.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch, platform_in(folder) as place:
        patch.setenv("TIDEMILL_ARCHIVE_EVERY_S", "0.1")
        place.start("one_model:spec")
        with place.client() as client:
            for _ in range(3):
                for number in range(40):
                    [made] = client.predict("one", [{"features": {"x": number / 40}}])
                    client.feedback([{"id": made["id"], "label": int(number > 20)}])
                client.retrain("one")
        until(lambda: _archived(place) == 120, "all is archived")
        yield place


def _archived(place: TestPlatform) -> int:
    return sum(day["outcomes"] for day in _json(place, "archive", "one")["days"])


def _json(place: TestPlatform, *words: str) -> Any:
    said = place.command(*words, "--json")
    return json.JSONDecoder().raw_decode(said[said.index("{") :])[0]


def test_a_version_shows_what_it_comes_from(place: TestPlatform) -> None:
    said = place.command("versions", "show", "one", "3")
    for line in ("3 of one, line main", "parent               2", "outcomes             40", "seed                 5"):
        assert line in said
    shown = _json(place, "versions", "show", "one", "3")
    assert shown["lineage"]["environment"]["threads"] == 1
    assert shown["lineage"]["learning"]["seed"] == 5
    assert "no version 99" in place.command("versions", "show", "one", "99", check=False)
    assert "because of" in place.command("versions", "one")


def test_the_trainer_s_version_comes_out_the_same_in_another_process(place: TestPlatform) -> None:
    said = place.command("versions", "reproduce", "one", "4")
    assert "version 4 comes out the same, bit for bit (4 versions, 120 outcomes" in said
    (place.folder / "one_model.py").write_text(MODEL + "\n# changed since\n")
    refused = place.command("versions", "reproduce", "one", "4", check=False)
    (place.folder / "one_model.py").write_text(MODEL)
    assert "version 1 was not learned as it would be here: the model's code was" in refused


def test_the_archive_is_retrained_to_a_line_of_its_own_that_answers_when_it_is_promoted(place: TestPlatform) -> None:
    wanted = ("retrain", "one", "--from-archive", "--since", "2020-01-01", "--passes", "2")
    made = _json(place, *wanted)
    version = made["version"]
    assert (version["line"], version["outcomes"], made["before"]) == ("retrained", 120, False)
    assert f"is the same as version {version['number']}" in place.command(*wanted)
    with place.client() as client:
        assert client.predict("one", [{"features": {"x": 0.5}}])[0]["version"] == 4
        place.command("promote", "one", str(version["number"]), "--why", "it knows the past")
        until(lambda: client.predict("one", [{"features": {"x": 0.5}}])[0]["version"] == version["number"], "it answers")


def test_what_cannot_be_retrained_is_refused_in_one_sentence(place: TestPlatform, tmp_path: Path) -> None:
    for words, said in (
        (("--from-archive", "--archive", str(tmp_path)), "no outcomes of model 'one' are archived"),
        (("--from-archive", "--until", "2020-01-01"), "no outcomes of model 'one' are archived"),
        (("--from-archive", "--line", "main"), "line 'main' is the trainer's"),
        (("--from-archive", "--since", "yesterday"), "--since yesterday: write a day or a time"),
        (("--from-archive", "--scratch", "--from-version", "2"), "--scratch begins with no version"),
        (("--passes", "2"), "--passes means nothing without --from-archive"),
    ):
        assert said in place.command("retrain", "one", *words, check=False)
