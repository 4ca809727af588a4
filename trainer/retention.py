"""How long the weights of versions are kept."""

import json

from store.lines import read_lines
from store.names import learner_consumer
from store.policy import MAIN
from store.protocols import Store

KEPT_VERSIONS, FORGET_EVERY = 50, 10


async def forget(store: Store, model: str, before: int, newest: int) -> None:
    """Drop weights that are more than 50 versions old, but for those that a policy pins, that are their line's newest, or that
    a learner goes on from.

    Ten at a time: when the numbers, which all lines share, have passed a ten on their way from the version before.
    """
    first, last = (number // FORGET_EVERY * FORGET_EVERY - KEPT_VERSIONS for number in (before, newest))
    old = range(max(1, first + 1), last + 1)
    if old:
        snapshot = await store.snapshot(model)
        kept = snapshot.policy.pinned | set(snapshot.channels.values()) | await _learned_on(store, model, old)
        await store.forget_weights(model, [number for number in old if number not in kept])


async def _learned_on(store: Store, model: str, numbers: range) -> set[int]:
    """Those of some versions that a learner, of main or of a line beside it, goes on from: the others' versions are many."""
    active = (await read_lines(store, model)).active
    if not active:
        return set()
    found, places = set[int](), set[tuple[str, str]]()
    for line in (MAIN, *(one.name for one in active)):
        position, state = await store.consumer(learner_consumer(model, line))
        places.add((line, position))
        found.add(json.loads(state).get("parent", 0) if state else 0)
    versions = [await store.version(model, number) for number in numbers if number not in found]
    return found | {one.number for one in versions if (one.line, one.position) in places}
