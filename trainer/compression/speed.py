"""How fast versions answer, measured in turn so that a noisy machine is as noisy for all of them."""

from collections.abc import Mapping
from statistics import median
from time import perf_counter

import numpy as np

from store.artefact import Session
from store.encoding import Encoded

BATCHES = (1, 32, 512)
ROUNDS = 40


def latencies(sessions: Mapping[str, Session], rows: Encoded) -> dict[str, dict[int, float]]:
    """Return each session's median time in seconds to answer 1, 32 and 512 rows; rows are repeated where there are fewer."""
    found: dict[str, dict[int, float]] = {name: {} for name in sessions}
    for batch in BATCHES:
        part = rows.take(np.resize(np.arange(len(rows)), batch).tolist())
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                session.run(part)  # what another session left in the processor's caches is not this one's time
                started = perf_counter()
                session.run(part)
                times[name].append(perf_counter() - started)
        for name, seconds in times.items():
            found[name][batch] = median(seconds)
    return found
