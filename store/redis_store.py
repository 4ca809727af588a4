"""The store's protocols on one Redis (6.2 or newer) or Valkey.

    {prefix}:{model}:log, :outcomes     streams, field p = packed record     (store/records.py)
    {prefix}:consumer:{name}            hash: position, state, blob          a consumer and what it remembers, moved together
    {prefix}:models, :removed           hashes: name -> ModelRecord JSON     (store/redis_models.py)
    {prefix}:{model}:graph:{digest}     hash: onnx, golden
    {prefix}:{model}:versions           hash: number -> Version JSON, with `last`
    {prefix}:{model}:weights:{number}   string: safetensors
    {prefix}:{model}:board              hash: policy, epoch, channel_seq, channel:{name}
    {prefix}:control                    stream that says that some board changed; readers then read the board
    {prefix}:reports, :report:{name}    set of names; a report that expires with its lease

What must happen together is one Lua script: Redis runs it alone and, with appendfsync always, answers when it is on disk.
"""

import asyncio
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from store.errors import EpochConflict, Fenced, NotFound, Unavailable
from store.keys import Key
from store.memory import latest_before
from store.names import AUDIT, CONTROL
from store.policy import Policy, Report, Snapshot
from store.protocols import NUMBER, START, Advance, Commit, Entry, Graph, Version
from store.redis_calls import CONTROL_LENGTH, pairs
from store.redis_models import AUDIT_LENGTH, RedisModels

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

# KEYS: consumer, versions, board, control, audit, then one consumer for each that moves beside the first.
# ARGV: expected, position, state, blob, version or '', prefix of weights keys, weights, channel or '', audit record or '', then
# expected, position, state, blob of each other consumer. What comes back of one that is elsewhere: where, and minus its place.
_COMMIT = f"""
for i = 6, #KEYS do
  local at = redis.call('HGET', KEYS[i], 'position') or '0-0'
  if at ~= ARGV[4 * i - 14] then return {{at, 5 - i}} end
end
{_MOVE}
for i = 6, #KEYS do
  local first = 4 * i - 14
  redis.call('HSET', KEYS[i], 'position', ARGV[first + 1], 'state', ARGV[first + 2])
  if ARGV[first + 3] ~= '' then redis.call('HSET', KEYS[i], 'blob', ARGV[first + 3]) end
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', {CONTROL_LENGTH}, '*', 'p', 'channel')
if ARGV[5] == '' then return {{false, 0}} end
local number = redis.call('HINCRBY', KEYS[2], 'last', 1)
redis.call('HSET', KEYS[2], number, ARGV[5])
if ARGV[8] ~= '' or ARGV[7] ~= '' then redis.call('SET', ARGV[6] .. number, ARGV[7]) end
if ARGV[8] ~= '' then
  redis.call('HSET', KEYS[3], 'channel:' .. ARGV[8], number)
  redis.call('HINCRBY', KEYS[3], 'channel_seq', 1)
end
if ARGV[9] ~= '' then
  local said = string.gsub(ARGV[9], '{NUMBER}', number)
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', {AUDIT_LENGTH}, '*', 'p', said)
end
return {{false, number}}
"""

# KEYS: board, control, audit, versions, removed.
# ARGV: expected epoch, policy, champion or 0, audit record or '', rejected version or 0, its record, its line's channel, the
# version before it or 0, the model.
_SET_POLICY = f"""
if redis.call('HEXISTS', KEYS[5], ARGV[9]) == 1 then return {{false, 0}} end
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if epoch ~= tonumber(ARGV[1]) then return {{epoch, 0}} end
redis.call('HSET', KEYS[1], 'policy', ARGV[2], 'epoch', epoch + 1)
if ARGV[3] ~= '0' then
  redis.call('HSET', KEYS[1], 'channel:champion', ARGV[3])
else
  redis.call('HDEL', KEYS[1], 'channel:champion')
end
if ARGV[4] ~= '' then redis.call('XADD', KEYS[3], 'MAXLEN', '~', {AUDIT_LENGTH}, '*', 'p', ARGV[4]) end
if ARGV[5] ~= '0' then
  redis.call('HSET', KEYS[4], ARGV[5], ARGV[6])
  if ARGV[8] ~= '0' and redis.call('HGET', KEYS[1], 'channel:' .. ARGV[7]) == ARGV[5] then
    redis.call('HSET', KEYS[1], 'channel:' .. ARGV[7], ARGV[8])
    redis.call('HINCRBY', KEYS[1], 'channel_seq', 1)
  end
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', {CONTROL_LENGTH}, '*', 'p', 'policy')
return {{epoch + 1, 1}}
"""


class RedisStore(RedisModels):
    """EventLog, ModelRegistry and PolicyBoard. `url` is redis://, rediss:// or unix://; `timeout_s` bounds each call."""

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> list[str]:
        return [position.decode() for position in await self.send(entries)]

    def send(self, entries: Sequence[tuple[str, bytes]]) -> "asyncio.Future[list[Any]]":
        commands = [("XADD", self._key(stream), "*", "p", payload) for stream, payload in entries]
        return self._appends.send(commands)

    async def read(self, stream: str, after: str, count: int, block_s: float = 0.0) -> list[Entry]:
        streams = ("STREAMS", self._key(stream), after)
        if block_s > 0:
            block_ms = max(1, int(min(block_s, self._timeout_s / 2) * 1000))
            [found] = await self._waits.send([("XREAD", "COUNT", count, "BLOCK", block_ms, *streams)])
        else:
            found = await self._ask("XREAD", "COUNT", count, *streams)
        return [Entry(position.decode(), fields[1]) for position, fields in found[0][1]] if found else []

    async def advance(self, step: Advance, entries: Sequence[tuple[str, bytes]]) -> list[str]:
        keys = [self._key("consumer", step.consumer), *(self._key(stream) for stream, _ in entries)]
        args = [step.expected, step.position, step.state, step.blob, *(payload for _, payload in entries)]
        actual, *positions = await self._run(_ADVANCE, keys, args)
        if actual is not None:
            raise Fenced(step.consumer, step.expected, actual.decode())
        return [position.decode() for position in positions]

    async def consumer(self, name: str) -> tuple[str, bytes]:
        position, state = await self._ask("HMGET", self._key("consumer", name), "position", "state")
        return (position.decode(), state) if position else (START, b"")

    async def blob(self, consumer: str) -> bytes:
        return await self._ask("HGET", self._key("consumer", consumer), "blob") or b""

    async def last(self, stream: str) -> str:
        try:
            info = await self._ask("XINFO", "STREAM", self._key(stream))
        except Unavailable as error:
            if "no such key" in str(error):
                return START
            raise
        return pairs(info)[b"last-generated-id"].decode()

    async def trim(self, stream: str, before: str) -> int:
        return await self._ask("XTRIM", self._key(stream), "MINID", "~", before)

    async def keys(self) -> list[Key]:
        kept = pairs(await self._ask("HGETALL", self._key("keys")))
        return [Key.model_validate_json(text) for text in kept.values()]

    async def put_key(self, key: Key) -> None:
        await self._ask("HSET", self._key("keys"), key.id, key.model_dump_json())
        await self._wake("key")

    async def drop_key(self, id_: str) -> None:
        if not await self._ask("HDEL", self._key("keys"), id_):
            raise NotFound(f"no key {id_[:80]}")
        await self._wake("key")

    async def put_graph(self, model: str, graph: Graph) -> None:
        key = self._key(model, "graph", graph.digest)
        await self._ask("HSET", key, "onnx", graph.onnx, "golden", graph.golden_inputs)

    async def graph(self, model: str, digest: str) -> Graph:
        onnx, golden = await self._ask("HMGET", self._key(model, "graph", digest), "onnx", "golden")
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
            commit.audit,
        ]  # fmt: skip
        keys += [self._key(CONTROL), self._key(AUDIT)]
        for other in commit.beside:
            keys.append(self._key("consumer", other.consumer))
            args += [other.expected, other.position, other.state, other.blob]
        actual, number = await self._run(_COMMIT, keys, args)
        if actual is not None:
            moved = (step, *commit.beside)[-number]
            raise Fenced(moved.consumer, moved.expected, actual.decode())
        return version.model_copy(update={"number": number}) if version else None

    async def versions(self, model: str, last: int = 100) -> list[Version]:
        newest = int(await self._ask("HGET", self._key(model, "versions"), "last") or 0)
        numbers = range(newest, max(0, newest - last), -1)
        if not numbers:
            return []
        texts = await self._ask("HMGET", self._key(model, "versions"), *numbers)
        return [_version(text, number) for text, number in zip(texts, numbers, strict=True)]

    async def version(self, model: str, number: int) -> Version:
        text = await self._ask("HGET", self._key(model, "versions"), number)
        if text is None:
            raise NotFound(f"model '{model}' has no version {number}")
        return _version(text, number)

    async def weights(self, model: str, number: int) -> bytes:
        weights = await self._ask("GET", self._key(model, "weights", str(number)))
        if weights is None:
            raise NotFound(f"the weights of version {number} of model '{model}' are not kept")
        return weights

    async def forget_weights(self, model: str, numbers: Sequence[int]) -> None:
        if numbers:
            await self._ask("UNLINK", *(self._key(model, "weights", str(number)) for number in numbers))

    async def snapshot(self, model: str) -> Snapshot:
        board = pairs(await self._ask("HGETALL", self._key(model, "board")))
        channels = {key.decode()[8:]: int(number) for key, number in board.items() if key.startswith(b"channel:")}
        return Snapshot(
            policy=_policy(board[b"policy"]) if b"policy" in board else Policy(),
            epoch=int(board.get(b"epoch", 0)),
            channels=channels,
            channel_seq=int(board.get(b"channel_seq", 0)),
        )

    async def set_policy(
        self, model: str, policy: Policy, expected_epoch: int, audit: bytes = b"", rejected: Version | None = None
    ) -> int:
        shared = [self._key(name) for name in (CONTROL, AUDIT)]
        keys = [self._key(model, "board"), *shared, self._key(model, "versions"), self._key("removed")]
        gone: tuple[Any, ...] = (0, "", "", 0)
        if rejected is not None:
            before = latest_before(await self.versions(model), rejected)
            gone = (rejected.number, rejected.model_dump_json(), f"{rejected.line}@latest", before)
        args = [expected_epoch, policy.model_dump_json(), policy.champion or 0, audit, *gone, model]
        epoch, done = await self._run(_SET_POLICY, keys, args)
        if epoch is None:
            raise NotFound(f"model '{model[:80]}' was removed")
        if not done:
            raise EpochConflict(model, expected_epoch, epoch)
        return epoch

    async def changes(self, after: str, block_s: float) -> str:
        moved = await self.read(CONTROL, after, CONTROL_LENGTH, block_s)
        return moved[-1].position if moved else after

    async def report(self, report: Report, lease_s: float) -> None:
        known = ("SADD", self._key("reports"), report.name)
        kept = ("SET", self._key("report", report.name), report.model_dump_json(), "PX", int(lease_s * 1000))
        await self._asks.send([known, kept])

    async def reports(self) -> list[Report]:
        names = sorted(name.decode() for name in await self._ask("SMEMBERS", self._key("reports")))
        texts = await self._ask("MGET", *(self._key("report", name) for name in names)) if names else []
        gone = [name for name, text in zip(names, texts, strict=True) if text is None]
        if gone:
            await self._ask("SREM", self._key("reports"), *gone)
        return [Report.model_validate_json(text) for text in texts if text is not None]


@lru_cache(maxsize=256)
def _policy(text: bytes) -> Policy:
    return Policy.model_validate_json(text)


def _version(text: bytes, number: int) -> Version:
    return Version.model_validate({**json.loads(text), "number": number})
