"""Files on their way to be imported: several at a time, slow ones, large ones, some whose clients leave."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from serving.foreign.question import Examined, Question
from serving.foreign.sandbox import examine_apart
from serving.foreign.testing import logistic
from serving.settings import ServingSettings
from serving.testing import TOKEN, refused, serving
from store.redis_store import RedisStore
from tests.integration.conftest import SPEC
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio

MAX_IMPORT = 10_000


@pytest.fixture(scope="module")
async def client(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    prefix = f"test-{tmp_path_factory.mktemp('uploads').parent.name}-uploads"
    store = RedisStore(redis_url, prefix)
    await Trainer(SPEC, store).start()
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret", max_import_bytes=MAX_IMPORT)
    async with serving(settings) as client:
        yield client
    await store.close()


async def _import(client: httpx.AsyncClient, model: str, content: bytes | AsyncIterator[bytes], **more: str) -> httpx.Response:
    headers = TOKEN | {"content-type": "application/octet-stream"} | more
    return await client.post(f"/admin/models/{model}/versions", headers=headers, content=content, timeout=60)


class Slow:
    """A file that comes but for its last byte, which comes when it may."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.here, self.go = asyncio.Event(), asyncio.Event()

    async def body(self) -> AsyncIterator[bytes]:
        yield self._content[:-1]
        self.here.set()
        await self.go.wait()
        yield self._content[-1:]


async def test_a_slow_upload_holds_up_no_other_import(client: httpx.AsyncClient) -> None:
    slow = Slow(logistic())
    coming = asyncio.create_task(_import(client, "slow", slow.body()))
    await slow.here.wait()
    assert (await _import(client, "fast", logistic())).status_code == 201
    assert not coming.done()
    slow.go.set()
    assert (await coming).status_code == 201


async def test_large_files_that_come_at_once_have_room_for_so_many(client: httpx.AsyncClient) -> None:
    """A small one finds room beside them, and when they are done with there is room again."""
    large = b"x" * (MAX_IMPORT - 1000)
    slow = [Slow(large), Slow(large)]
    coming = [asyncio.create_task(_import(client, "large", one.body())) for one in slow]
    for one in slow:
        await one.here.wait()
    third = await _import(client, "large", large)
    refused(third, 503, "no room for this body")
    assert third.headers["retry-after"]
    assert (await _import(client, "small", logistic())).status_code == 201
    for one in slow:
        one.go.set()
    for reply in await asyncio.gather(*coming, _import(client, "large", b"x" * (MAX_IMPORT + 1))):
        assert reply.status_code in (413, 422), reply.text
    for _ in range(3):
        refused(await _import(client, "large", large), 422, "no ONNX file")


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate, gzip", "br"])
async def test_a_compressed_file_is_refused_in_plain_words(client: httpx.AsyncClient, encoding: str) -> None:
    headers = {"content-encoding": encoding}
    reply = await _import(client, "packed", gzip.compress(logistic()), **headers)
    refused(reply, 400, f"Content-Encoding '{encoding.lower()}': send the ONNX file as it is")
    headers = {"content-encoding": "identity"}
    assert (await _import(client, "plain", logistic(), **headers)).status_code == 201


async def test_two_imports_at_a_time_are_both_versions(client: httpx.AsyncClient) -> None:
    both = await asyncio.gather(*(_import(client, "race", logistic()) for _ in range(2)))
    assert sorted(one.json()["version"] for one in both) == [1, 2]


async def test_an_import_goes_on_without_its_client_and_keeps_its_turn(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client that comes and goes would have the platform examine any number of files at a time."""
    begun, going_on = threading.Event(), threading.Event()
    at_work: list[str] = []

    def slowly(content: bytes, question: Question) -> Examined:
        at_work.append(question.name)
        begun.set()
        going_on.wait(30)
        return examine_apart(content, question)

    monkeypatch.setattr("serving.imports.examine_apart", slowly)
    gone = asyncio.create_task(_import(client, "gone", logistic()))
    await asyncio.to_thread(begun.wait, 30)
    gone.cancel()
    next_one = asyncio.create_task(_import(client, "next", logistic()))
    await asyncio.sleep(0.2)
    assert at_work == ["gone"]
    going_on.set()
    assert (await next_one).status_code == 201
    # Nobody waited for the first one to be known here, and each model becomes known by itself.
    async with asyncio.timeout(60):
        while (known := await client.get("/admin/models/gone/versions", headers=TOKEN)).status_code == 404:  # noqa: ASYNC110 - asked as any client asks
            await asyncio.sleep(0.05)
    assert known.json()["versions"][0]["number"] == 1


async def test_who_has_left_when_their_turn_comes_is_not_waited_for(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work: list[str] = []

    def noted(content: bytes, question: Question) -> Examined:
        at_work.append(question.name)
        return examine_apart(content, question)

    monkeypatch.setattr("serving.imports.examine_apart", noted)
    app: Any = client._transport.app  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]

    async def left(scope: Any, receive: Any, send: Any) -> None:
        whole = False

        async def heard() -> Any:
            nonlocal whole
            message = {"type": "http.disconnect"} if whole else await receive()
            whole = not message.get("more_body", False)
            return message

        await app(scope, heard, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(left), base_url="http://platform") as leaving:
        with pytest.raises(ClientDisconnect):
            await _import(leaving, "left", logistic())
    assert (await _import(client, "stayed", logistic())).status_code == 201
    assert at_work == ["stayed"]
