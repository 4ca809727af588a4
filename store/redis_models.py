"""Which models there are, on Redis: on record, or removed with what is kept of them.

    {prefix}:models         hash: name -> ModelRecord JSON
    {prefix}:removed        hash: name -> RemovedModel JSON

A change is made of what was read before, and only if it is still so; else it is made again.
"""

import re
from functools import lru_cache
from time import time
from typing import Any

from store.errors import EpochConflict, ModelExists, NotFound
from store.memory import merged
from store.names import AUDIT, CONTROL, consumers_of, streams_of
from store.redis_calls import CONTROL_LENGTH, RedisCalls, pairs
from store.spec import ModelRecord, RemovedModel, Schedule

AUDIT_LENGTH = 10_000

# KEYS: models, removed, control, audit, board.
# ARGV: name, what is on record and what is removed now, what is to be instead ('' for nothing), audit record or '', and the
# epoch that the board is at or ''.
_MOVE = f"""
for i = 1, 2 do
  if (redis.call('HGET', KEYS[i], ARGV[1]) or '') ~= ARGV[i + 1] then return false end
end
if ARGV[7] ~= '' and (redis.call('HGET', KEYS[5], 'epoch') or '0') ~= ARGV[7] then return false end
for i = 1, 2 do
  if ARGV[i + 3] == '' then redis.call('HDEL', KEYS[i], ARGV[1]) else redis.call('HSET', KEYS[i], ARGV[1], ARGV[i + 3]) end
end
if ARGV[6] ~= '' then redis.call('XADD', KEYS[4], 'MAXLEN', '~', {AUDIT_LENGTH}, '*', 'p', ARGV[6]) end
return redis.call('XADD', KEYS[3], 'MAXLEN', '~', {CONTROL_LENGTH}, '*', 'p', 'model')
"""

_SCAN_COUNT = 1000


class RedisModels(RedisCalls):
    """The part of ModelRegistry that is about models as a whole."""

    async def register(self, record: ModelRecord) -> None:
        while True:
            known, kept = await self._texts(record.name)
            before = _record(known) if known else _removed(kept).ready() if kept else None
            if await self._move(record.name, known, kept, merged(before, record).model_dump_json(), ""):
                return

    async def add(self, record: ModelRecord, audit: bytes = b"") -> None:
        while True:
            known, kept = await self._texts(record.name)
            if known:
                raise ModelExists(record.name)
            new = merged(_removed(kept).ready() if kept else None, record).model_copy(update={"loaded": True})
            if await self._move(record.name, known, kept, new.model_dump_json(), "", audit):
                return

    async def remove(self, model: str, audit: bytes = b"", expected_epoch: int | None = None) -> str:
        at = "" if expected_epoch is None else str(expected_epoch)
        while True:
            known, kept = await self._texts(model)
            if not known:
                raise NotFound(f"no model '{model[:80]}'")
            removed = RemovedModel(record=_record(known), at=time())
            if position := await self._move(model, known, kept, "", removed.model_dump_json(), audit, at):
                return position
            epoch = int(await self._ask("HGET", self._key(model, "board"), "epoch") or 0)
            if expected_epoch not in (None, epoch):
                raise EpochConflict(model, expected_epoch, epoch)

    async def removed(self) -> dict[str, RemovedModel]:
        kept = pairs(await self._ask("HGETALL", self._key("removed")))
        return {name.decode(): _removed(text) for name, text in kept.items()}

    async def purge(self, model: str) -> None:
        while True:
            known, kept = await self._texts(model)
            if known or not kept:
                raise NotFound(f"nothing is kept of a removed model '{model[:80]}'")
            marked = _removed(kept).model_copy(update={"purging": True}).model_dump_json()
            if await self._move(model, known, kept, "", marked):
                break
        for key in await self._keys_of(model):
            await self._ask("UNLINK", key)
        await self._move(model, b"", marked.encode(), "", "")  # last: what is cut short can be repeated

    async def models(self) -> dict[str, ModelRecord]:
        records = pairs(await self._ask("HGETALL", self._key("models")))
        return {name.decode(): _record(text) for name, text in records.items()}

    async def set_schedule(self, model: str, schedule: Schedule) -> None:
        await self._amend(model, {"schedule": schedule})

    async def set_loaded(self, model: str, loaded: bool) -> None:
        await self._amend(model, {"loaded": loaded})

    async def _amend(self, model: str, changes: dict[str, Any]) -> None:
        while True:
            known, kept = await self._texts(model)
            if not known:
                raise NotFound(f"no model '{model[:80]}'")
            if await self._move(model, known, kept, _record(known).model_copy(update=changes).model_dump_json(), kept):
                return

    async def _texts(self, model: str) -> tuple[bytes, bytes]:
        """Return what is on record and what is removed of this name; nothing for neither."""
        asked = [("HGET", self._key(which), model) for which in ("models", "removed")]
        known, kept = await self._asks.send(asked)
        return known or b"", kept or b""

    async def _move(
        self, model: str, known: bytes, kept: bytes, record: str, removed: str | bytes, audit: bytes = b"", epoch: str = ""
    ) -> str:
        """Return the position of the change in the control stream; empty where another one came first."""
        keys = [*(self._key(name) for name in ("models", "removed", CONTROL, AUDIT)), self._key(model, "board")]
        position = await self._run(_MOVE, keys, [model, known, kept, record, removed, audit, epoch])
        return position.decode() if position else ""

    async def _keys_of(self, model: str) -> list[str]:
        """Return the keys of all that is kept of a model but its record. Names of models have no colon in them."""
        named = [*streams_of(model), f"{model}:versions", f"{model}:board"]
        many = [f"{model}:graph:", f"{model}:weights:"]
        exact, prefixes = consumers_of(model)
        named += [f"consumer:{name}" for name in exact]
        many += [f"consumer:{name}" for name in prefixes]
        found: set[str] = set()
        pattern, cursor = re.sub(r"([\[\]*?\\])", r"\\\1", self._key("")) + "*", b"0"
        while True:
            cursor, keys = await self._ask("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            names = [key.decode(errors="replace") for key in keys]
            found.update(name for name in names if name.startswith(tuple(map(self._key, many))))
            if cursor == b"0":
                return [*map(self._key, named), *sorted(found)]


@lru_cache(maxsize=1024)
def _record(text: bytes) -> ModelRecord:
    """Records are read at every change of a board, and change themselves once in a blue moon."""
    return ModelRecord.model_validate_json(text)


def _removed(text: bytes) -> RemovedModel:
    return RemovedModel.model_validate_json(text)
