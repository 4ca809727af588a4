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

BURST = 4
"""Up to so many times the bound are let in when they gather in a moment's pause; a queue that stays is not."""


class Admission:
    """One replica's places.

    Args:
        most_at_work: predictions whose bodies are here. `most`: these, and those whose clients are still sending, which cost
            little: clients that dawdle must not take everybody's places.
    """

    def __init__(self, most_at_work: int, most: int, clock: Callable[[], float] = monotonic) -> None:
        self._most_at_work, self._most = most_at_work, most
        self._clock = clock
        self._credit, self._credited_at = float((BURST - 1) * most_at_work), clock()
        self.at_work = 0
        self.ongoing = 0
        self.entered = 0

    def enter(self, receive: Receive) -> "Place":
        """Return a place for a request that receives its body by `receive`; give it back with `leave`.

        Raises:
            Overloaded: there is none.
        """
        if self.ongoing >= self._most or (self.at_work >= self._most_at_work and not self._lend()):
            raise Overloaded(f"{self.ongoing} predictions are at work already; send fewer at a time")
        self.at_work += 1
        self.ongoing += 1
        self.entered += 1
        return Place(self, receive)

    def _lend(self) -> bool:
        """Take a place beyond the bound, if there is one left: they all come back in a second."""
        now, most = self._clock(), float((BURST - 1) * self._most_at_work)
        self._credit = min(most, self._credit + (now - self._credited_at) * most)
        self._credited_at = now
        if self._credit < 1.0 or self.at_work >= BURST * self._most_at_work:
            return False
        self._credit -= 1.0
        return True


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
