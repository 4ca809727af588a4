"""Processors that do not halt while predictions come.

A processor of a virtual machine that halts is woken late, and an answer waits for half a dozen such wakings: HAProxy, the
replica, Redis and the disk, there and back. That was measured at a third of the median time of one connection's answers.
Linux keeps all processors from it for as long as somebody holds this file open with the longest
wait allowed in it, which root may (its "CPU latency" quality of service). It costs power, so it is done under load alone.
"""

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

FILE = Path("/dev/cpu_dma_latency")
_EVERY_S = 0.25
_BUSY_S = 100.0
"""Predictions a second from which on it is worth it: one connection alone asks some hundreds."""
_CALM_S = 1.0
"""Processors may halt again after so long with fewer."""


class Wakefulness:
    """Holds the file open while there is load; where it cannot be had, nothing is done, and nothing said: it is no fault."""

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        self._held: BinaryIO | None = None
        self._calm_s = 0.0

    @property
    def held(self) -> bool:
        return self._held is not None

    def look(self, answered: int, seconds: float) -> None:
        """Take note that so many predictions were answered in the last seconds."""
        if answered >= _BUSY_S * seconds:
            self._calm_s = 0.0
            if self._held is None:
                self._hold()
        else:
            self._calm_s += seconds
            if self._calm_s >= _CALM_S:
                self.release()

    def _hold(self) -> None:
        try:
            self._held = self._file.open("r+b", buffering=0)
            self._held.write(struct.pack("i", 0))  # microseconds
        except OSError:
            self.release()

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


async def stay_awake(answered: Callable[[], int], wakefulness: Wakefulness) -> None:
    """Look at the count of predictions for ever; let go when cancelled."""
    loop = asyncio.get_running_loop()
    count, at = answered(), loop.time()
    try:
        while True:
            await asyncio.sleep(_EVERY_S)
            now, more = loop.time(), answered()
            wakefulness.look(more - count, now - at)
            count, at = more, now
    finally:
        wakefulness.release()
