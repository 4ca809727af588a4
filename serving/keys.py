"""What keepers of keys call: make, show, rotate, end them. A key's text is in the answer that made it, and nowhere else."""

from time import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from serving.errors import Invalid
from serving.http import answer, read_body
from serving.operators import Operators, validate
from serving.replica import Replica
from store.errors import NotFound
from store.keys import Key, Limits, Role, issue
from store.names import AUDIT
from store.policy import AuditRecord

_MOST = 10_000


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    role: Role = "predict"
    models: tuple[str, ...] = Field(default=(), max_length=1000)
    limits: Limits = Limits()
    days: float | None = Field(default=None, gt=0.0, le=36_500.0)


class _Rotation(BaseModel):
    """`overlap_s`: how long the old key is still good."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: float = Field(default=3600.0, ge=0.0, le=366 * 86_400.0)


class Keys:
    """The routes on keys, over one replica. A change is known to every replica within two seconds."""

    def __init__(self, replica: Replica) -> None:
        self._store = replica.store

    async def show(self, _: Request) -> Response:
        keys = sorted(await self._store.keys(), key=lambda key: (key.name, key.created_at))
        return answer({"keys": [_shown(key) for key in keys]})

    async def create(self, request: Request) -> Response:
        wanted: _Wanted = validate(_Wanted, await read_body(request, 100_000))
        if len(await self._store.keys()) >= _MOST:
            raise Invalid(f"there are {_MOST:,} keys already: end some of them first")
        now = time()
        expires_at = now + wanted.days * 86_400.0 if wanted.days is not None else None
        key, text = issue(wanted.name, wanted.role, wanted.models, wanted.limits, now, expires_at)
        await self._record(request, "new key", "", key)
        await self._store.put_key(key)
        return answer(_shown(key) | {"key": text}, 201)

    async def rotate(self, request: Request) -> Response:
        """Make a key like another one, which ends when the overlap does."""
        old = await self._key(request)
        if old.expires_at is not None and old.expires_at <= time():
            raise Invalid(f"key {old.id} has ended: make a new one")
        overlap_s = validate(_Rotation, await read_body(request, 10_000) or b"{}").overlap_s
        now = time()
        key, text = issue(old.name, old.role, old.models, old.limits, now, old.expires_at)
        await self._store.put_key(key)
        ends = min(now + overlap_s, old.expires_at if old.expires_at is not None else now + overlap_s)
        await self._store.put_key(old.model_copy(update={"expires_at": ends}))
        await self._record(request, "rotate key", f"key {old.id}", key)
        return answer(_shown(key) | {"key": text}, 201)

    async def drop(self, request: Request) -> Response:
        key = await self._key(request)
        await self._store.drop_key(key.id)
        await self._record(request, "end key", _told(key), None)
        return answer(_shown(key))

    async def _record(self, request: Request, action: str, before: str, key: Key | None) -> None:
        """Keys are decisions, too: who made or ended which, and when."""
        after = _told(key) if key is not None else ""
        said = AuditRecord(at=time(), who=Operators.who(request), model="", action=action, before=before, after=after)
        await self._store.append([(AUDIT, said.model_dump_json().encode())])

    async def _key(self, request: Request) -> Key:
        id_: str = request.path_params["key"]
        key = next((key for key in await self._store.keys() if key.id == id_), None)
        if key is None:
            raise NotFound(f"no key {id_[:80]}; GET /admin/keys lists them by id")
        return key


def _told(key: Key) -> str:
    return f"key {key.id} of {key.name}, {key.role}" + (f", for {', '.join(key.models)}" if key.models else "")


def _shown(key: Key) -> dict[str, Any]:
    return key.model_dump(exclude={"digest"})
