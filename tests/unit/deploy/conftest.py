"""A platform that answers what a test says, for the commands that talk to one."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from deploy import cli_terminal
from deploy.cli import app
from deploy.client import Client
from deploy.home import Home, Running


@dataclass
class FakePlatform:
    """Keeps what it was asked, and answers by method and path. An answer of status and body is a refusal."""

    home: Path
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    asked: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    headers: list[httpx.Headers] = field(default_factory=list[httpx.Headers])

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = f"{request.method} {request.url.raw_path.decode()}"
        self.asked.append((asked, _said(request)))
        self.headers.append(request.headers)
        found = self.answers.get(asked, (404, {"error": f"no route {asked}"}))
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        status, body = found if isinstance(found, tuple) else (200, found)
        return httpx.Response(status, json=body)

    def run(self, *words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, [*words, "--home", str(self.home)], input=stdin)

    def says(self, *words: str, stdin: str | None = None) -> str:
        """Run a command that must succeed; return what it printed."""
        result = self.run(*words, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.output

    def refuses(self, *words: str, stdin: str | None = None) -> str:
        """Run a command that must fail; return its one sentence."""
        result = self.run(*words, stdin=stdin)
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    def sent(self, asked: str) -> Any:
        """The body of the last such request."""
        return next(body for was, body in reversed(self.asked) if was == asked)


def _said(request: httpx.Request) -> Any:
    """A request's body: JSON, or the bytes of a file."""
    if request.headers.get("content-type") == "application/octet-stream":
        return request.content
    return json.loads(request.content) if request.content else None


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePlatform]:
    home = Home(tmp_path / "home")
    home.take()
    home.tell(Running(pid=os.getpid(), url="http://platform", redis_url="unix:///nowhere", specs=("a:b",)))
    fake = FakePlatform(home.path)
    monkeypatch.setattr(cli_terminal, "Client", partial(Client, transport=httpx.MockTransport(fake)))
    monkeypatch.setattr(cli_terminal.out, "width", 200)
    yield fake
    home.leave()
