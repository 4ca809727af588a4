"""One platform to a home, and a token that only its user can read."""

import os
from pathlib import Path

import pytest

from deploy.home import AlreadyRunning, Home, NotRunning, Running

RUNNING = Running(pid=os.getpid(), url="http://127.0.0.1:1", redis_url="unix:///nowhere", specs=("a:b",))


def test_a_home_has_one_platform_at_a_time(tmp_path: Path) -> None:
    first, second = Home(tmp_path), Home(tmp_path)
    first.take()
    first.tell(RUNNING)
    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        second.take()
    second.leave()
    assert second.expect() == RUNNING
    first.leave()
    with pytest.raises(NotRunning, match="tidemill up"):
        second.expect()
    second.take()
    second.leave()


def test_what_a_killed_platform_left_is_no_platform(tmp_path: Path) -> None:
    (tmp_path / "platform.json").write_text(RUNNING.model_dump_json())
    (tmp_path / "lock").touch()
    assert Home(tmp_path).running() is None


def test_the_token_is_made_once_and_is_for_its_user_alone(tmp_path: Path) -> None:
    token = Home(tmp_path).token()
    assert len(token) > 30
    assert Home(tmp_path).token() == token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
