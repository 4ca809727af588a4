"""The cursor of a ranked list: the rest of its draft, signed, so that any replica can show the next page of the same list."""

import hmac
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import blake2b

import msgpack

from router.interleaving import NOBODY
from serving.errors import Invalid

CURSOR_BYTES = 64 * 1024
_SIGNATURE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Listing:
    """A draft and how far it has been shown; all that a later page needs, on any replica. `seconds` is how long each ranker's
    run took for this page, 0 where a page needed none."""

    id: str
    unit: str
    shown: int
    items: list[str]
    teams: list[int]
    seed: int
    rankers: list[str]
    versions: list[int]
    scores: list[float]
    experiment: str
    experiments: tuple[str, ...]
    propensity: float
    once: bool
    epoch: int
    seconds: list[float]


class Cursors:
    """Writes and reads cursors; `key` is the same on all replicas."""

    def __init__(self, key: str) -> None:
        self._key = blake2b(key.encode(), digest_size=32).digest()

    def after(self, listing: Listing, shown: int) -> str:
        """Return the cursor of what comes after the first `shown` positions."""
        left = slice(shown, None)
        state = [
            listing.id, listing.unit, shown, listing.items[left], listing.teams[left], listing.seed, listing.rankers,
            listing.versions, [round(score, 6) for score in listing.scores[left]], listing.experiment, listing.experiments,
            listing.propensity, listing.once, listing.epoch,
        ]  # fmt: skip
        packed: bytes = zlib.compress(msgpack.packb(state))  # pyright: ignore[reportArgumentType]
        return urlsafe_b64encode(self._signature(packed) + packed).decode()

    def resumed(self, cursor: str, unit: str | None) -> Listing:
        """Return the listing that a cursor goes on with.

        Raises:
            Invalid: it was not given here, or to another unit.
        """
        try:
            raw = urlsafe_b64decode(cursor.encode())
        except ValueError:
            raw = b""
        signature, packed = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(self._signature(packed), signature):
            raise Invalid("cursor: this is none that was given here; leave it out to begin a new list")
        id_, of, shown, items, teams, seed, rankers, versions, scores, *rest = msgpack.unpackb(zlib.decompress(packed))
        experiment, experiments, propensity, once, epoch = rest
        if unit is not None and of not in (unit, id_):
            raise Invalid(f"cursor: it belongs to the list of unit '{of[:80]}'")
        # What was shown before is no candidate any more.
        return Listing(
            id_, of, shown, [""] * shown + items, [NOBODY] * shown + teams, seed, rankers, versions, [0.0] * shown + scores,
            experiment, tuple(experiments), propensity, once, epoch, [0.0] * len(rankers),
        )  # fmt: skip

    def _signature(self, packed: bytes) -> bytes:
        return blake2b(packed, digest_size=_SIGNATURE_BYTES, key=self._key).digest()
