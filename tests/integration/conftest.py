"""One model behind the ASGI application, its trainer in the same process."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

import httpx
import pytest
from pydantic import BaseModel, Field

from serving.settings import ServingSettings
from serving.testing import predict, serving
from store.redis_store import RedisStore
from store.schema import Buckets
from store.spec import ModelSpec, Schedule
from trainer.loop import Trainer

MAX_BODY = 2_000_000


class Features(BaseModel):
    x: float
    name: Annotated[str, Buckets(8)]
    colour: Literal["red", "blue"]
    limited: Annotated[float, Field(ge=0, le=1)]


SPEC = ModelSpec(name="m", features=Features, schedule=Schedule(seconds=None))


@pytest.fixture(scope="module")
async def platform(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Trainer, RedisStore, httpx.AsyncClient]]:
    own = tmp_path_factory.mktemp("platform")  # each module's platform begins with nothing
    prefix = f"test-{own.parent.name}-{own.name}"
    store = RedisStore(redis_url, prefix)
    trainer = Trainer(SPEC, store)
    await trainer.start()
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret", max_body_bytes=MAX_BODY)
    async with serving(settings) as client:
        yield trainer, store, client
    await store.close()


@pytest.fixture
async def client(platform: tuple[Trainer, RedisStore, httpx.AsyncClient]) -> AsyncIterator[httpx.AsyncClient]:
    """The platform's client; after each test a good request must still be answered."""
    yield platform[2]
    await predict(platform[2])
