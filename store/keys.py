"""API keys: who may do what, and how much of it. A key's text is shown once, when it is made; only its digest is kept."""

import hashlib
import hmac
import secrets
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["predict", "viewer", "operator", "admin"]
"""predict: predictions and feedback; viewer: reads what operators read; operator: changes traffic and models, and predicts;
admin: keys too."""

_START = "tm"


class Limits(BaseModel):
    """What may be asked for; None is no limit beyond the platform's own.

    Args:
        requests_s: a second, over all replicas, each of which holds to its share; a second's worth may come at once.
        concurrency: at a time, likewise over all replicas.
        instances: in one request. `body_bytes`: of one request.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_s: float | None = Field(default=None, ge=0.001, le=1e9)
    concurrency: int | None = Field(default=None, ge=1)
    instances: int | None = Field(default=None, ge=1)
    body_bytes: int | None = Field(default=None, ge=1)

    @property
    def metered(self) -> bool:
        """Whether requests are to be counted."""
        return self.requests_s is not None or self.concurrency is not None


class Key(BaseModel):
    """A key as it is kept. `models` are those it is for, none for all; it ends at `expires_at`, seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    role: Role = "predict"
    models: tuple[str, ...] = ()
    limits: Limits = Limits()
    digest: str = Field(repr=False)
    created_at: float = 0.0
    expires_at: float | None = None

    def opens(self, secret: str, now: float) -> bool:
        """Whether the secret is this key's, and the key is good; takes the same time for every wrong secret."""
        same = hmac.compare_digest(_digest(secret), self.digest)
        return same and (self.expires_at is None or now < self.expires_at)


def issue(
    name: str,
    role: Role = "predict",
    models: tuple[str, ...] = (),
    limits: Limits | None = None,
    now: float = 0.0,
    expires_at: float | None = None,
) -> tuple[Key, str]:
    """Return a new key, and its text `tm_<id>_<secret>`, of which nothing is kept."""
    id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = Key(
        id=id_,
        name=name,
        role=role,
        models=models,
        limits=limits or Limits(),
        digest=_digest(secret),
        created_at=now,
        expires_at=expires_at,
    )
    return key, f"{_START}_{id_}_{secret}"


def parts_of(text: str) -> tuple[str, str] | None:
    """Return a key's id and secret, or None where a text is no key."""
    start, _, rest = text.partition("_")
    id_, line, secret = rest.partition("_")
    return (id_, secret) if start == _START and line and secret else None


def _digest(secret: str) -> str:
    # 32 random bytes need no slow hash: nobody can try them all.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
