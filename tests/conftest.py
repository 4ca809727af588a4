"""What tests share: one Redis for the whole run, and a corner of it for each test."""

import uuid
from collections.abc import Iterator

import pytest

from store.embedded import EmbeddedRedis


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def prefix() -> str:
    """A prefix for keys that no other test has."""
    return f"test-{uuid.uuid4().hex}"
