"""Units to slots, slots to arms."""

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

from store.policy import Slice

SLOTS = 1_000_000
"""Resolution of a share: one part in a million."""


def slot(salt: str, unit: str) -> int:
    """Return a unit's slot, 0 to SLOTS - 1: uniform, independent across salts, the same in every process.

    >>> slot("experiment", "N14228") == slot("experiment", "N14228")
    True
    """
    return slots(salt)(encoded(unit))


def encoded(unit: str) -> bytes:
    """The bytes of a unit that are hashed: half of a surrogate pair, which JSON can carry, is a name as any other."""
    return unit.encode("utf-8", "surrogatepass")


def slots(salt: str) -> Callable[[bytes], int]:
    """Return the function from an encoded unit to its slot under this salt."""
    # blake2b takes 16 bytes of personalisation: the salt is hashed down to them, once.
    salted = blake2b(digest_size=8, person=blake2b(encoded(salt), digest_size=16).digest())
    number, fresh = int.from_bytes, salted.copy

    def place(unit: bytes) -> int:
        digest = fresh()
        digest.update(unit)
        return number(digest.digest(), "big") * SLOTS >> 64

    return place


def allocate(previous: Iterable[Slice], shares: Mapping[str, float]) -> tuple[Slice, ...]:
    """Return slices with these shares (which sum to at most 1) that move as few slots as can be.

    Arms that shrink, or are gone, give up slots from the end of theirs; arms that grow take those, then free ones. So a unit
    moves only out of an arm that shrinks or into one that grows.

    >>> before = allocate([], {"a": 0.5, "b": 0.5})
    >>> [(s.start, s.end, s.owner) for s in allocate(before, {"a": 0.5, "b": 0.25, "c": 0.25})]
    [(0, 500000, 'a'), (500000, 750000, 'b'), (750000, 1000000, 'c')]
    """
    wanted = {owner: round(share * SLOTS) for owner, share in shares.items()}
    excess = sum(wanted.values()) - SLOTS
    if 0 < excess <= len(wanted):  # thirds round up together
        wanted[max(wanted, key=wanted.__getitem__)] -= excess
    kept: list[Slice] = []
    left = dict(wanted)
    for piece in sorted(previous, key=lambda piece: piece.start):
        size = min(piece.end - piece.start, left.get(piece.owner, 0))
        if size:
            kept.append(Slice(start=piece.start, end=piece.start + size, owner=piece.owner))
            left[piece.owner] -= size
    free = _gaps(kept)
    for owner, need in left.items():
        missing = need
        while missing:
            start, end = free.pop(0)
            size = min(missing, end - start)
            kept.append(Slice(start=start, end=start + size, owner=owner))
            missing -= size
            if start + size < end:
                free.insert(0, (start + size, end))
    return _joined(kept)


def _gaps(slices: list[Slice]) -> list[tuple[int, int]]:
    gaps: list[tuple[int, int]] = []
    at = 0
    for piece in sorted(slices, key=lambda piece: piece.start):
        if piece.start > at:
            gaps.append((at, piece.start))
        at = piece.end
    if at < SLOTS:
        gaps.append((at, SLOTS))
    return gaps


def _joined(slices: list[Slice]) -> tuple[Slice, ...]:
    joined: list[Slice] = []
    for piece in sorted(slices, key=lambda piece: piece.start):
        if joined and joined[-1].owner == piece.owner and joined[-1].end == piece.start:
            joined[-1] = joined[-1].model_copy(update={"end": piece.end})
        else:
            joined.append(piece)
    return tuple(joined)
