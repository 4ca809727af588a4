"""How long the weights of versions are kept."""

from store.protocols import Store

KEPT_VERSIONS, FORGET_EVERY = 50, 10


async def forget(store: Store, model: str, before: int, newest: int) -> None:
    """Drop weights that are more than 50 versions old, but for those that a policy pins or that are their line's newest.

    Ten at a time: when the numbers, which all lines share, have passed a ten on their way from the version before.
    """
    first, last = (number // FORGET_EVERY * FORGET_EVERY - KEPT_VERSIONS for number in (before, newest))
    old = range(max(1, first + 1), last + 1)
    if old:
        snapshot = await store.snapshot(model)
        kept = snapshot.policy.pinned | set(snapshot.channels.values())
        await store.forget_weights(model, [number for number in old if number not in kept])
