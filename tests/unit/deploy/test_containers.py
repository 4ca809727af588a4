"""The image and compose.yaml: what can be told of them without an engine that runs containers."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from typer.testing import CliRunner

from deploy.cli import app
from deploy.kubernetes.manifests import platform
from deploy.kubernetes.values import Redis, Values
from deploy.settings import Settings
from serving.app import build
from serving.settings import ServingSettings

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SCHEMA = json.loads((Path(__file__).parent / "schemas/compose-spec.json").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = [line.split(None, 1) for line in DOCKERFILE.splitlines() if line and not line.lstrip().startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _last(instruction: str) -> str:
    return [words for name, words in INSTRUCTIONS if name == instruction][-1]


def test_compose_is_as_its_specification_says() -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(COMPOSE)


def test_compose_names_only_settings_that_there_are() -> None:
    environment: dict[str, str] = COMPOSE["services"]["tidemill"]["environment"]
    assert {name.removeprefix("TIDEMILL_").lower() for name in environment} <= set(Settings.model_fields)


def test_compose_has_the_platform_find_its_valkey() -> None:
    valkey, tidemill = COMPOSE["services"]["valkey"], COMPOSE["services"]["tidemill"]
    assert tidemill["environment"]["TIDEMILL_REDIS_URL"] == "redis://valkey:6379/0"
    assert tidemill["depends_on"]["valkey"]["condition"] == "service_healthy"
    assert "healthcheck" in valkey
    given = dict(zip(valkey["command"][1::2], valkey["command"][2::2], strict=True))
    assert (given["--appendonly"], given["--appendfsync"]) == ("yes", "always")
    assert valkey["image"] == Redis().image


def test_compose_opens_ports_to_this_machine_alone() -> None:
    assert all(port.startswith("127.0.0.1:") for service in COMPOSE["services"].values() for port in service["ports"])


def test_the_commands_are_ones_that_there_are() -> None:
    for command in (COMPOSE["services"]["tidemill"]["command"], json.loads(_last("CMD"))):
        program, *words = command
        assert program in PROJECT["project"]["scripts"]
        options = [word for word in words if word.startswith("--")]
        help_text = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
        assert all(option in help_text for option in options)


def test_the_image_keeps_its_state_where_compose_mounts_a_volume() -> None:
    mounts = [mount.split(":")[1] for mount in COMPOSE["services"]["tidemill"]["volumes"]]
    environment = dict(pair.split("=", 1) for pair in shlex.split(_last("ENV")))
    assert mounts == [environment["TIDEMILL_HOME"], environment["PYTHONPATH"]]
    assert _last("VOLUME") == environment["TIDEMILL_HOME"]


def test_the_image_runs_as_the_user_of_the_pods() -> None:
    [ray] = [it["spec"]["rayClusterConfig"] for it in platform(Values(image="x", specs=("a:b",))) if it["kind"] == "RayService"]
    context = ray["headGroupSpec"]["template"]["spec"]["securityContext"]
    assert _last("USER") == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_the_image_is_healthy_when_the_platform_is_ready() -> None:
    [(port, path)] = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", _last("HEALTHCHECK"))
    assert port == _last("EXPOSE") == str(Settings.model_fields["port"].default)
    assert path in [route.path for route in build(ServingSettings(redis_url="redis://nowhere")).app.routes]  # pyright: ignore


def test_the_image_has_the_python_of_the_project() -> None:
    images = [words.split()[0] for name, words in INSTRUCTIONS if name == "FROM"]
    assert set(images) == {"python:3.11-slim"}
    assert PROJECT["project"]["requires-python"].startswith(">=3.11")


def test_the_image_gets_every_package_and_no_more_of_the_folder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    kept = {line[1:] for line in ignored if line.startswith("!")}
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert "*" in ignored
    assert kept == packages | {"pyproject.toml", PROJECT["project"]["readme"], "LICENSE"}
