"""How many predictions are at work at a time: enough to keep a replica busy, and so few that each is soon answered.

By Little's law the time in a busy server is what is at work over what it answers in a second: more at work answers nothing
sooner. On one machine HAProxy keeps the bound (`deploy/haproxy.py`), since there a refusal costs next to nothing; where
something else stands before the replicas, this does.
"""

from collections.abc import Callable
from time import monotonic

from starlette.types import Message, Receive

from serving.errors import Overloaded

MOST_AT_WORK = 64
"""Of one replica. It is busy all the time with a few; 64 are answered in about twice the time of 32."""

BURST = 8
"""Up to so many times the bound are let in when they gather in a moment's pause; a queue that stays is not."""

STAYS, LEAST = 0.5, 3
"""It stays if in the last second more than half as many requests found the bound reached as found room, and more than three
times the bound: after a pause most of a second's requests find room again, in an overload few do. Where answers take so long
that there are no more in a second, it stays if none found room and more than the bound did not."""


class Admission:
    """One replica's places.

    Args:
        most_at_work: predictions whose bodies are here. `most`: these, and those whose clients are still sending, which cost
            little: clients that dawdle must not take everybody's places.
    """

    def __init__(self, most_at_work: int, most: int, clock: Callable[[], float] = monotonic) -> None:
        self._most_at_work, self._most = most_at_work, most
        self._clock = clock
        self._fitted, self._over = _Rate(), _Rate()
        self.at_work = 0
        self.ongoing = 0
        self.entered = 0

    def enter(self, receive: Receive) -> "Place":
        """Return a place for a request that receives its body by `receive`; give it back with `leave`.

        Raises:
            Overloaded: there is none.
        """
        now = self._clock()
        if self.at_work < self._most_at_work:
            self._fitted.add(now)
            full = self.ongoing >= self._most
        else:
            self._over.add(now)
            full = self.ongoing >= self._most or self.at_work >= BURST * self._most_at_work or self._stays(now)
        if full:
            raise Overloaded(f"{self.ongoing} predictions are at work already; send fewer at a time")
        self.at_work += 1
        self.ongoing += 1
        self.entered += 1
        return Place(self, receive)

    def _stays(self, now: float) -> bool:
        """Whether there is a queue that is more than a moment's."""
        over, fitted = self._over.value(now), self._fitted.value(now)
        return over > (LEAST if fitted else 1) * self._most_at_work and over > STAYS * fitted


class _Rate:
    """Events of the last second, by the counts of this whole second and the one before it."""

    def __init__(self) -> None:
        self._second, self._count, self._before = 0, 0, 0

    def add(self, now: float) -> None:
        if int(now) != self._second:
            self._roll(int(now))
        self._count += 1

    def value(self, now: float) -> float:
        if int(now) != self._second:
            self._roll(int(now))
        return self._count + self._before * (1.0 - now % 1.0)

    def _roll(self, second: int) -> None:
        self._before = self._count if second == self._second + 1 else 0
        self._second, self._count = second, 0


class Place:
    """A request's place; while it waits for its body, others may work."""

    __slots__ = ("_admission", "_receive")

    def __init__(self, admission: Admission, receive: Receive) -> None:
        self._admission, self._receive = admission, receive

    async def receive(self) -> Message:
        self._admission.at_work -= 1
        try:
            return await self._receive()
        finally:
            self._admission.at_work += 1

    def leave(self) -> None:
        self._admission.at_work -= 1
        self._admission.ongoing -= 1
