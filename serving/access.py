"""Who may ask: keys, roles, and how much of what a key or a model may be asked."""

import hmac
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import monotonic, time

from serving.errors import Forbidden, Invalid, LimitReached, NotReady, TimedOut, TooLarge, Unauthorized
from store.keys import Key, Limits, Role, parts_of

PREDICT: frozenset[Role] = frozenset({"predict", "operator", "admin"})
VIEW: frozenset[Role] = frozenset({"viewer", "operator", "admin"})
OPERATE: frozenset[Role] = frozenset({"operator", "admin"})
ADMIN: frozenset[Role] = frozenset({"admin"})

TIMEOUT_HEADER, DEADLINE_HEADER = "x-request-timeout-ms", "x-request-deadline"
"""How long a client waits, in milliseconds from here, or until when, in seconds since 1970."""

_TIMEOUT, _DEADLINE = TIMEOUT_HEADER.encode(), DEADLINE_HEADER.encode()
_AUTHORIZATION, _API_KEY, _BEARER = b"authorization", b"x-api-key", b"bearer "
_HOW = "send the header 'Authorization: Bearer <key>'"

Used = tuple[float, int]
"""Of a limit: requests a second, and requests at work."""

_UNUSED: Used = (0.0, 0)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is: a key's, the first operator's by the token (an admin), or nobody's in particular."""

    name: str
    role: Role
    key: Key | None = None

    def check_model(self, model: str) -> None:
        """Raise Forbidden where the caller's key is not for this model; '*' stands for all."""
        if self.key is not None and self.key.models and model not in self.key.models:
            whole = "all models" if model == "*" else f"model '{model[:80]}'"
            raise Forbidden(f"key '{self.name}' is not for {whole}; it is for {', '.join(self.key.models)}")

    def sees(self, model: str) -> bool:
        """Whether the caller may know of this model."""
        return self.key is None or not self.key.models or model in self.key.models


ANYBODY = Caller("", "predict")


@dataclass(slots=True)
class Allowance:
    """What one request may be: so many bytes, so many instances, and no work after `deadline` by the monotonic clock."""

    body_bytes: int
    instances: int
    deadline: float = math.inf

    def check_instances(self, count: int) -> None:
        """Raise TooLarge where a request has more."""
        if count > self.instances:
            raise TooLarge(f"{count:,} are too many for one request; send at most {self.instances:,}")

    def check_time(self) -> None:
        """Raise TimedOut where nobody waits any more: the work is not begun."""
        if monotonic() > self.deadline:
            raise TimedOut(f"the deadline that {TIMEOUT_HEADER} or {DEADLINE_HEADER} set has passed; nothing was answered")


def allowance(
    body_bytes: int, instances: int, limits: Limits, caller: Caller, headers: Iterable[tuple[bytes, bytes]]
) -> Allowance:
    """Return what a request may be by the platform's own bounds, its model's and its key's limits, and its headers.

    Raises:
        Invalid: a header with the time is no number.
    """
    for one in (limits,) if caller.key is None else (limits, caller.key.limits):
        body_bytes = min(body_bytes, one.body_bytes or body_bytes)
        instances = min(instances, one.instances or instances)
    deadline = math.inf
    for name, value in headers:
        if name == _TIMEOUT:
            deadline = min(deadline, monotonic() + _number(TIMEOUT_HEADER, value) / 1000)
        elif name == _DEADLINE:
            deadline = min(deadline, monotonic() + _number(DEADLINE_HEADER, value) - time())
    return Allowance(body_bytes, instances, deadline)


def _number(name: str, value: bytes) -> float:
    try:
        number = float(value) if len(value) <= 32 else math.nan
    except ValueError:
        number = math.nan
    if not 0.0 <= number < math.inf:
        raise Invalid(f"{name}: a number, not '{value[:32].decode('latin-1')}'")
    return number


class Access:
    """One replica's doorkeeper.

    Args:
        token: the first operator's, an admin by it. `api_key`: one for predictions; empty for none.
        required: whether predictions need a key; on loopback they do not.
        replicas: how many share the limits, until it is known how many there are.

    `keys` is replaced whole when keys change; None until they have been read. Of a limit each replica may use what the others
    do not, by what they last said, and always its even part: all of them together keep to it, but for the two seconds in which
    they do not know yet of each other.
    """

    def __init__(self, token: str, api_key: str, required: bool, replicas: int) -> None:
        self._token, self._api_key = token.encode(), api_key.encode()
        self.required = required
        self.keys: Mapping[str, Key] | None = None
        self.replicas = replicas
        self._meters: dict[str, _Meter] = {}
        self._elsewhere: dict[str, Used] = {}

    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Return who sends these headers.

        Raises:
            Unauthorized: they name a key that is none, or none where one is needed.
        """
        for name, value in headers:
            if name == _AUTHORIZATION and value[: len(_BEARER)].lower() == _BEARER:
                given = value[len(_BEARER) :]
                if self._token and hmac.compare_digest(given, self._token):
                    return Caller("operator", "admin")
                if caller := self._owner(given):
                    return caller
            elif name == _API_KEY and (caller := self._owner(value)):
                return caller
        if self.required:
            raise Unauthorized(f"this needs a key: {_HOW}")
        return ANYBODY

    def _owner(self, given: bytes) -> Caller | None:
        """Return the owner of a key, None of what does not look like one; raises Unauthorized for one that is not good."""
        if self._api_key and hmac.compare_digest(given, self._api_key):
            return _APPLICATION
        parts = parts_of(given.decode("latin-1"))
        if parts is None:
            if self.required:
                raise Unauthorized(f"that is no key; {_HOW}")
            return None
        if self.keys is None:
            raise NotReady("the keys have not been read yet")
        key = self.keys.get(parts[0])
        if key is None or not key.opens(parts[1], time()):
            raise Unauthorized("this key is not known here, or has ended")
        return Caller(key.name, key.role, key)

    def known(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
        """Return the caller, None for a stranger where a key is needed."""
        try:
            return self.caller(headers)
        except (Unauthorized, NotReady):
            return None

    def expect(self, headers: Iterable[tuple[bytes, bytes]], roles: frozenset[Role]) -> Caller:
        """Return the caller; raises Unauthorized, and Forbidden where their role is not one of these."""
        caller = self.caller(headers)
        if caller is ANYBODY and roles is not PREDICT:
            raise Unauthorized(f"operator routes need the operators' token or a key: {_HOW}")
        if caller.role not in roles:
            raise Forbidden(f"key '{caller.name}' has the role {caller.role}; this needs {' or '.join(sorted(roles))}")
        return caller

    def admitted(self, caller: Caller, model: str, limits: Limits) -> AbstractContextManager[None]:
        """Hold a place for a request of this caller to this model, whose limits these are.

        Raises:
            LimitReached: the key's or the model's rate or concurrency is used up.
        """
        if limits.metered or (caller.key is not None and caller.key.limits.metered):
            return self._metered(caller, model, limits)
        return _UNMETERED

    @contextmanager
    def _metered(self, caller: Caller, model: str, limits: Limits) -> Generator[None]:
        held: list[_Meter] = []
        try:
            if caller.key is not None and caller.key.limits.metered:
                held.append(self._enter(f"key '{caller.name}'", caller.key.id, caller.key.limits))
            if limits.metered:
                held.append(self._enter(f"model '{model}'", _of_model(model), limits))
            yield
        finally:
            for meter in held:
                meter.ongoing -= 1

    def forget(self, model: str) -> None:
        """Drop what was counted of a model that is served no more."""
        self._meters.pop(_of_model(model), None)

    def _enter(self, whose: str, name: str, limits: Limits) -> "_Meter":
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = _Meter()
        meter.enter(whose, limits, self.replicas, self._elsewhere.get(name, _UNUSED))
        return meter

    def used(self) -> dict[str, Used]:
        """Return what of each limit is used here."""
        now = monotonic()
        return {name: used for name, meter in self._meters.items() if any(used := meter.used(now))}

    def divide(self, others: Sequence[Mapping[str, Used]]) -> None:
        """Take in what each of the other replicas has said that it uses."""
        self.replicas = 1 + len(others)
        self._elsewhere = {}
        for name in {name for each in others for name in each}:
            rates, at_work = zip(*(each.get(name, _UNUSED) for each in others), strict=True)
            self._elsewhere[name] = (sum(rates), sum(at_work))
        for name in [name for name, meter in self._meters.items() if not meter.ongoing and self._gone(name)]:
            del self._meters[name]

    def _gone(self, name: str) -> bool:
        """Whether this is the meter of a key that there is no more."""
        return not name.startswith(_of_model("")) and self.keys is not None and name not in self.keys


def _of_model(model: str) -> str:
    return f"model {model}"  # no key's id has a blank


_LATELY_S, _LEAST_S = 2.0, 0.001
"""What was let in so long ago counts for a third, and the most at work is that of so long; a rate that is not told."""

UNLIMITED = Limits()
_UNMETERED = nullcontext()
_APPLICATION = Caller("application", "predict")


@dataclass(slots=True)
class _Meter:
    """A bucket of requests that fills by the second, how many are at work, and what is told of both."""

    left: float = math.inf
    at: float = 0.0
    ongoing: int = 0
    _most: int = 0
    _most_at: float = 0.0
    _recent: float = 0.0
    _recent_at: float = 0.0

    def used(self, now: float) -> Used:
        """Return the requests let in per second, and the most at work, lately."""
        if now - self._most_at > _LATELY_S:
            self._most, self._most_at = self.ongoing, now
        rate = self._lately(now) / _LATELY_S
        return (round(rate, 3) if rate > _LEAST_S else 0.0), self._most

    def _lately(self, now: float) -> float:
        """Return how many were let in lately, the older the less."""
        return self._recent * math.exp((self._recent_at - now) / _LATELY_S)

    def enter(self, whose: str, limits: Limits, replicas: int, elsewhere: Used) -> None:
        """Take a place of what the other replicas leave of these limits, or of an even part."""
        now, (rate_elsewhere, at_work_elsewhere) = monotonic(), elsewhere
        if limits.concurrency is not None:
            most = max(1, limits.concurrency // replicas, limits.concurrency - at_work_elsewhere)
            if self.ongoing >= most:
                raise LimitReached(f"{whose} has {self.ongoing} requests at work here, as many as it may; send fewer at a time")
        if limits.requests_s is not None:
            rate = max(limits.requests_s / replicas, limits.requests_s - rate_elsewhere)
            self.left = min(max(1.0, rate), self.left + (now - self.at) * rate)
            self.at = now
            if self.left < 1.0:
                seconds = math.ceil((1.0 - self.left) / rate)
                raise LimitReached(f"{whose} may send {limits.requests_s:g} requests a second; wait {seconds} s", seconds)
            self.left -= 1.0
        self.ongoing += 1
        if self.ongoing >= self._most:
            self._most, self._most_at = self.ongoing, now
        self._recent, self._recent_at = self._lately(now) + 1.0, now
