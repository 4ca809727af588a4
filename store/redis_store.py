"""The store's protocols on one Redis (6.2 or newer) or Valkey.

    {prefix}:{model}:log, :outcomes     streams, field p = packed record     (store/records.py)
    {prefix}:consumer:{name}            hash: position, state, blob          a consumer and what it remembers, moved together
    {prefix}:models                     hash: name -> ModelRecord JSON
    {prefix}:{model}:graph:{digest}     hash: onnx, golden
    {prefix}:{model}:versions           hash: number -> Version JSON, with `last`
    {prefix}:{model}:weights:{number}   string: safetensors
    {prefix}:{model}:board              hash: policy, epoch, channel_seq, channel:{name}
    {prefix}:control                    stream that says that some board changed; readers then read the board
    {prefix}:reports, :report:{name}    set of names; a report that expires with its lease

What must happen together is one Lua script: Redis runs it alone and, with appendfsync always, answers when it is on disk.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Sequence
from functools import lru_cache
from typing import Any, cast

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from store.errors import EpochConflict, Fenced, NotFound, Unavailable
from store.memory import merged
from store.names import CONTROL
from store.pipe import Pipe
from store.policy import Policy, Report, Snapshot
from store.protocols import START, Advance, Commit, Entry, Graph, Version
from store.spec import ModelRecord, Schedule

_CONTROL_LENGTH = 1000
_AWAY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.ResponseError,
    OSError,
)

_MOVE = """
local at = redis.call('HGET', KEYS[1], 'position') or '0-0'
if at ~= ARGV[1] then return {at, 0} end
redis.call('HSET', KEYS[1], 'position', ARGV[2], 'state', ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'blob', ARGV[4]) end
"""

# KEYS: consumer, then one stream per entry. ARGV: expected, position, state, blob, then one payload per entry.
_ADVANCE = f"""{_MOVE}
local positions = {{false}}
for i = 2, #KEYS do positions[i] = redis.call('XADD', KEYS[i], '*', 'p', ARGV[i + 3]) end
return positions
"""

# KEYS: consumer, versions, board, control.
# ARGV: expected, position, state, blob, version or '', prefix of weights keys, weights, channel or ''.
_COMMIT = f"""{_MOVE}
redis.call('XADD', KEYS[4], 'MAXLEN', '~', {_CONTROL_LENGTH}, '*', 'p', 'channel')
if ARGV[5] == '' then return {{false, 0}} end
local number = redis.call('HINCRBY', KEYS[2], 'last', 1)
redis.call('HSET', KEYS[2], number, ARGV[5])
if ARGV[8] ~= '' then
  redis.call('SET', ARGV[6] .. number, ARGV[7])
  redis.call('HSET', KEYS[3], 'channel:' .. ARGV[8], number)
  redis.call('HINCRBY', KEYS[3], 'channel_seq', 1)
end
return {{false, number}}
"""

# KEYS: board, control. ARGV: expected epoch, policy.
_SET_POLICY = f"""
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if epoch ~= tonumber(ARGV[1]) then return {{epoch, 0}} end
redis.call('HSET', KEYS[1], 'policy', ARGV[2], 'epoch', epoch + 1)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', {_CONTROL_LENGTH}, '*', 'p', 'policy')
return {{epoch + 1, 1}}
"""


@contextlib.asynccontextmanager
async def _answering() -> AsyncGenerator[None]:
    try:
        yield
    except _AWAY as error:
        raise Unavailable(f"Redis: {error}") from error


class RedisStore:
    """EventLog, ModelRegistry and PolicyBoard. `url` is redis://, rediss:// or unix://; `timeout_s` bounds each call."""

    def __init__(self, url: str, prefix: str = "tidemill", timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s
        # A retried XADD could append twice, so nothing is retried below the callers.
        self._redis = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
        self._prefix = prefix
        self._pipe = Pipe(url, timeout_s)
        self._advance = self._redis.register_script(_ADVANCE)
        self._commit = self._redis.register_script(_COMMIT)
        self._set_policy = self._redis.register_script(_SET_POLICY)

    async def close(self) -> None:
        await self._pipe.close()
        await self._redis.aclose()

    async def ping(self) -> None:
        async with _answering():
            await _wait(self._redis.ping())

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> list[str]:
        return [position.decode() for position in await self.send(entries)]

    def send(self, entries: Sequence[tuple[str, bytes]]) -> "asyncio.Future[list[Any]]":
        commands = [("XADD", self._key(stream), "*", "p", payload) for stream, payload in entries]
        return self._pipe.send(commands)

    async def read(self, stream: str, after: str, count: int, block_s: float = 0.0) -> list[Entry]:
        block_ms = max(1, int(min(block_s, self._timeout_s / 2) * 1000)) if block_s > 0 else None
        async with _answering():
            found: Any = await self._redis.xread({self._key(stream): after}, count=count, block=block_ms)
        # RESP3 answers with a map of lists, RESP2 with a list of pairs.
        for _, batches in found.items() if isinstance(found, dict) else found or []:
            batch = batches[0] if batches and isinstance(batches[0], list) else batches
            return [Entry(position.decode(), fields[b"p"]) for position, fields in batch]
        return []

    async def advance(self, step: Advance, entries: Sequence[tuple[str, bytes]]) -> list[str]:
        keys = [self._key("consumer", step.consumer), *(self._key(stream) for stream, _ in entries)]
        args = [step.expected, step.position, step.state, step.blob, *(payload for _, payload in entries)]
        async with _answering():
            actual, *positions = await self._advance(keys=keys, args=args)
        if actual is not None:
            raise Fenced(step.consumer, step.expected, actual.decode())
        return [position.decode() for position in positions]

    async def consumer(self, name: str) -> tuple[str, bytes]:
        async with _answering():
            position, state = await _wait(self._redis.hmget(self._key("consumer", name), ["position", "state"]))
        return (position.decode(), state) if position else (START, b"")

    async def blob(self, consumer: str) -> bytes:
        async with _answering():
            return await _wait(self._redis.hget(self._key("consumer", consumer), "blob")) or b""

    async def last(self, stream: str) -> str:
        try:
            async with _answering():
                info = await self._redis.xinfo_stream(self._key(stream))
        except Unavailable as error:
            if "no such key" in str(error):
                return START
            raise
        return info["last-generated-id"].decode()

    async def trim(self, stream: str, before: str) -> int:
        async with _answering():
            return await self._redis.xtrim(self._key(stream), minid=before, approximate=True)

    async def register(self, record: ModelRecord) -> None:
        async with _answering():
            known = await _wait(self._redis.hget(self._key("models"), record.name))
            kept = merged(ModelRecord.model_validate_json(known), record) if known else record
            await _wait(self._redis.hset(self._key("models"), record.name, kept.model_dump_json()))
            await self._redis.xadd(self._key(CONTROL), {"p": "model"}, maxlen=_CONTROL_LENGTH)

    async def models(self) -> dict[str, ModelRecord]:
        async with _answering():
            records = await _wait(self._redis.hgetall(self._key("models")))
        return {name.decode(): _record(text) for name, text in records.items()}

    async def set_schedule(self, model: str, schedule: Schedule) -> None:
        known = (await self.models()).get(model)
        if known is None:
            raise NotFound(f"no model '{model}'")
        text = known.model_copy(update={"schedule": schedule}).model_dump_json()
        async with _answering():
            await _wait(self._redis.hset(self._key("models"), model, text))

    async def put_graph(self, model: str, graph: Graph) -> None:
        async with _answering():
            fields = {"onnx": graph.onnx, "golden": graph.golden_inputs}
            await _wait(self._redis.hset(self._key(model, "graph", graph.digest), mapping=cast(Any, fields)))

    async def graph(self, model: str, digest: str) -> Graph:
        async with _answering():
            onnx, golden = await _wait(self._redis.hmget(self._key(model, "graph", digest), ["onnx", "golden"]))
        if onnx is None:
            raise NotFound(f"model '{model}' has no graph {digest}")
        return Graph(digest, onnx, golden)

    async def commit(self, model: str, commit: Commit) -> Version | None:
        step, version = commit.step, commit.version
        keys = [self._key("consumer", step.consumer), self._key(model, "versions"), self._key(model, "board")]
        published = version is not None and version.status == "published"
        args = [
            step.expected, step.position, step.state, step.blob, version.model_dump_json() if version else "",
            self._key(model, "weights", ""), commit.weights, f"{version.line}@latest" if version and published else "",
        ]  # fmt: skip
        async with _answering():
            actual, number = await self._commit(keys=[*keys, self._key(CONTROL)], args=args)
        if actual is not None:
            raise Fenced(step.consumer, step.expected, actual.decode())
        return version.model_copy(update={"number": number}) if version else None

    async def versions(self, model: str, last: int = 100) -> list[Version]:
        async with _answering():
            newest = int(await _wait(self._redis.hget(self._key(model, "versions"), "last")) or 0)
            numbers = list(range(newest, max(0, newest - last), -1))
            if not numbers:
                return []
            texts = await _wait(self._redis.hmget(self._key(model, "versions"), [str(number) for number in numbers]))
        return [_version(text, number) for text, number in zip(texts, numbers, strict=True)]

    async def version(self, model: str, number: int) -> Version:
        async with _answering():
            text = await _wait(self._redis.hget(self._key(model, "versions"), str(number)))
        if text is None:
            raise NotFound(f"model '{model}' has no version {number}")
        return _version(text, number)

    async def weights(self, model: str, number: int) -> bytes:
        async with _answering():
            weights: Any = await self._redis.get(self._key(model, "weights", str(number)))
        if weights is None:
            raise NotFound(f"the weights of version {number} of model '{model}' are not kept")
        return weights

    async def forget_weights(self, model: str, numbers: Sequence[int]) -> None:
        if numbers:
            async with _answering():
                await self._redis.unlink(*(self._key(model, "weights", str(number)) for number in numbers))

    async def snapshot(self, model: str) -> Snapshot:
        async with _answering():
            board = await _wait(self._redis.hgetall(self._key(model, "board")))
        channels = {key.decode()[8:]: int(number) for key, number in board.items() if key.startswith(b"channel:")}
        return Snapshot(
            policy=Policy.model_validate_json(board[b"policy"]) if b"policy" in board else Policy(),
            epoch=int(board.get(b"epoch", 0)),
            channels=channels,
            channel_seq=int(board.get(b"channel_seq", 0)),
        )

    async def set_policy(self, model: str, policy: Policy, expected_epoch: int) -> int:
        keys = [self._key(model, "board"), self._key(CONTROL)]
        async with _answering():
            epoch, done = await self._set_policy(keys=keys, args=[expected_epoch, policy.model_dump_json()])
        if not done:
            raise EpochConflict(model, expected_epoch, epoch)
        return epoch

    async def changes(self, after: str, block_s: float) -> str:
        moved = await self.read(CONTROL, after, _CONTROL_LENGTH, block_s)
        return moved[-1].position if moved else after

    async def report(self, report: Report, lease_s: float) -> None:
        async with _answering():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.sadd(self._key("reports"), report.name)
            pipeline.set(self._key("report", report.name), report.model_dump_json(), px=int(lease_s * 1000))
            await pipeline.execute()

    async def reports(self) -> list[Report]:
        async with _answering():
            names = sorted(name.decode() for name in await _wait(self._redis.smembers(self._key("reports"))))
            texts = await self._redis.mget([self._key("report", name) for name in names]) if names else []
            gone = [name for name, text in zip(names, texts, strict=True) if text is None]
            if gone:
                await _wait(self._redis.srem(self._key("reports"), *gone))
        return [Report.model_validate_json(text) for text in texts if text is not None]

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))


@lru_cache(maxsize=256)
def _record(text: bytes) -> ModelRecord:
    """Records are read at every change of a board, and change themselves once in a blue moon."""
    return ModelRecord.model_validate_json(text)


def _version(text: bytes, number: int) -> Version:
    return Version.model_validate({**json.loads(text), "number": number})


async def _wait(answer: Any) -> Any:
    """Await what redis-py types as either an awaitable or a value."""
    return await cast(Awaitable[Any], answer)
