"""Old outcomes that are learned again: a sample of all that came, of bounded size, as encoded rows.

A label that is corrected is corrected here, too, where its row is still kept: rows are known by digests of their predictions.

What is drawn follows from the batch's seed, and what is kept is in the checkpoint; so a replay ends with the same bits. The
sample is written whole with every version: a third of a megabyte for 2,048 rows of 40 columns, packed in a fraction of the
time that a version takes otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from store.errors import SpecError
from store.learning import LABEL, Replay
from store.records import Outcome
from store.spec import ModelRecord
from trainer.rows import STRATA, Rows, stratum_of
from trainer.targets import progressive

MOST_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Offer:
    """What a micro-batch has for a replay.

    Attributes:
        rows: outcomes that are judged for the first time, and `keys` int64 [rows] of their predictions.
        corrected: those whose label was another before, likewise, in order; `were` int64 [rows], which stratum by label each
            was of.
    """

    rows: Rows
    keys: np.ndarray
    corrected: Rows
    corrected_keys: np.ndarray
    were: np.ndarray

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], rows: Rows, record: ModelRecord) -> "Offer":
        """Return what there is in a micro-batch, whose rows are given in the order of its outcomes."""
        policy, classes = record.labels, max(2, len(record.labels_known))
        new = [
            place for place in progressive(policy, outcomes) if not outcomes[place].learned or outcomes[place].replaces is None
        ]
        known = set(new)
        others = [place for place, one in enumerate(outcomes) if one.learned and place not in known]
        labels = [policy.resolved(outcomes[place].learned, classes).label for place in others] if record.labels_known else []
        were = np.array([stratum_of(label, record) for label in labels], np.int64)
        keys = np.array([_key(outcome) for outcome in outcomes], np.int64)
        return cls(rows.at(new), keys[new], rows.at(others), keys[others], were)


@dataclass(frozen=True, slots=True)
class _Before:
    """What the last batch replaced."""

    held: int
    counts: np.ndarray
    full: np.ndarray
    slots: np.ndarray
    contents: dict[str, np.ndarray]
    corrected: np.ndarray
    corrected_contents: dict[str, np.ndarray]


class Reservoir:
    """Each outcome ever offered is among those kept with the same chance (Vitter, "Random Sampling with a Reservoir", ACM TOMS
    1985, algorithm R).

    Stratified, a full reservoir makes room in the largest stratum for those that are smaller, and each stratum is a reservoir
    of its own (Chrysakis and Moens, "Online Continual Learning from Imbalanced Data", ICML 2020, algorithm 1). By label that
    would bias probabilities, so rows count by how many of their stratum a kept row stands for. By a feature it only says where
    the network is to be good, and rows count alike.

    Raises:
        SpecError: it would be too large.
    """

    def __init__(self, settings: Replay, record: ModelRecord) -> None:
        numbers, columns = record.features.numbers, len(record.features.buckets)
        row_bytes = 4 * (numbers + columns) + 18
        if settings.capacity * row_bytes > MOST_BYTES:
            raise SpecError(
                f"model '{record.name}': learning: a replay of {settings.capacity:,} rows of {row_bytes} bytes is written with "
                f"every version: at most {MOST_BYTES // row_bytes:,} fit in {MOST_BYTES // 2**20} MiB"
            )
        self._settings = settings
        self._stratified = settings.kind == "stratified"
        self.by = settings.by if self._stratified else ""
        label = np.int64 if record.objective == "multiclass" else np.float32
        self._kept: dict[str, np.ndarray] = {
            "numbers": np.zeros((settings.capacity, numbers), np.float32),
            "categories": np.zeros((settings.capacity, columns), np.int32),
            "labels": np.zeros(settings.capacity, label),
            "strata": np.zeros(settings.capacity, np.int16),
            "keys": np.zeros(settings.capacity, np.int64),
        }
        self._held = 0
        self._counts = np.zeros(STRATA, np.int64)
        self._full = np.zeros(STRATA, bool)
        self._before: _Before | None = None

    def __len__(self) -> int:
        return self._held

    @property
    def fingerprint(self) -> str:
        """Of the settings with which what is kept goes on; another's starts afresh."""
        return f"{self._settings.kind} {self.by} {self._settings.capacity}"

    def drawn(self, draw: np.random.Generator, device: torch.device) -> Rows:
        """Return rows for one step, drawn with replacement from those that are kept; there must be one."""
        index = draw.integers(0, self._held, self._settings.rows)
        numbers, labels = self._kept["numbers"][index], self._kept["labels"][index]
        categories = self._kept["categories"][index].astype(np.int64)
        weights: Tensor | None = None
        if self.by == LABEL:
            strata = self._kept["strata"]
            stands_for = self._counts / np.maximum(np.bincount(strata[: self._held], minlength=STRATA), 1)
            weights = torch.from_numpy(stands_for[strata[index]] * (self._held / self._counts.sum())).float().to(device)
        tensors = (torch.from_numpy(array).to(device) for array in (numbers, categories, labels))
        return Rows(*tensors, weights=weights, likely=None, strata={})

    def offer(self, offer: Offer, draw: np.random.Generator) -> None:
        """Take in a micro-batch that was learned."""
        rows = offer.rows
        strata = rows.strata[self.by] if self._stratified else np.zeros(len(rows), np.int64)
        counts, full, held = self._counts.copy(), self._full.copy(), self._held
        free = min(len(rows), self._settings.capacity - held)
        self._counts += np.bincount(strata[:free], minlength=STRATA)
        arrays = _arrays(rows) | {"strata": strata, "keys": offer.keys}
        self._write(np.arange(held, held + free), {name: array[:free] for name, array in arrays.items()})
        self._held += free
        choose = self._chosen_by_stratum if self._stratified else self._chosen
        offered, slots = choose(strata[free:], draw)
        before = self._contents(slots, self._kept)
        self._write(slots, {name: array[free:][offered] for name, array in arrays.items()})
        corrected, contents = self._corrected(offer)
        self._before = _Before(held, counts, full, slots, before, corrected, self._contents(corrected, contents))
        self._write(corrected, contents)

    def _corrected(self, offer: Offer) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the slots of rows whose labels were corrected, and what becomes of them; count them where they are now."""
        if not len(offer.corrected):
            return np.zeros(0, np.int64), {}
        keys = self._kept["keys"][: self._held]
        order = np.argsort(keys, kind="stable")
        places = np.minimum(np.searchsorted(keys, offer.corrected_keys, sorter=order), max(0, len(keys) - 1))
        there = np.flatnonzero(keys[order[places]] == offer.corrected_keys) if len(keys) else np.zeros(0, np.int64)
        contents = {"labels": _arrays(offer.corrected)["labels"][there]}
        if self.by == LABEL:
            now = offer.corrected.strata[self.by]
            moved = np.bincount(now, minlength=STRATA) - np.bincount(offer.were, minlength=STRATA)
            self._counts = np.maximum(self._counts + moved, 0)
            contents["strata"] = now[there]
        return order[places[there]], contents

    def _contents(self, slots: np.ndarray, of: Iterable[str]) -> dict[str, np.ndarray]:
        return {name: self._kept[name][slots].copy() for name in of}

    def undo(self) -> None:
        """Be as before the batch that was offered since `begin`, if one was."""
        if (before := self._before) is not None:
            self._write(before.corrected, before.corrected_contents)
            self._write(before.slots, before.contents)
            self._held, self._counts, self._full = before.held, before.counts, before.full
        self._before = None

    def begin(self) -> None:
        """A batch begins: what came before is no longer undone."""
        self._before = None

    def tensors(self) -> dict[str, Tensor]:
        """What is kept, for the checkpoint."""
        kept = {name: torch.from_numpy(array[: self._held]) for name, array in self._kept.items()}
        return kept | {"counts": torch.from_numpy(self._counts), "full": torch.from_numpy(self._full)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Become the reservoir of the same fingerprint that gave these; raises ValueError or KeyError where they do not fit."""
        for name, kept in self._kept.items():
            # An older checkpoint has no keys: what it kept is not corrected any more.
            given = tensors[name].numpy() if name != "keys" or name in tensors else np.zeros(self._held, np.int64)
            kept[: len(given)] = given
            self._held = len(given)
        self._counts[:], self._full[:] = tensors["counts"].numpy(), tensors["full"].numpy()
        self._before = None

    def _write(self, slots: np.ndarray, contents: dict[str, np.ndarray]) -> None:
        for name, array in contents.items():
            self._kept[name][slots] = array  # where a slot is there twice, the last one stays

    def _chosen(self, strata: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return which of further rows, int64, go to which slots of a full reservoir."""
        slots = draw.integers(0, self._counts[0] + np.arange(len(strata)) + 1)
        self._counts[0] += len(strata)
        offered = np.flatnonzero(slots < self._settings.capacity)
        return offered, slots[offered]

    def _chosen_by_stratum(self, strata: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Likewise, by stratum."""
        chances = draw.random((len(strata), 2))
        there = self._kept["strata"][: self._held].copy()
        sizes = np.bincount(there, minlength=STRATA)
        offered, slots = list[int](), list[int]()
        for row, own in enumerate(strata.tolist()):
            self._counts[own] += 1
            self._full |= sizes == sizes.max()
            room = own
            if not self._full[own]:
                room = int(sizes.argmax())
            elif chances[row, 0] >= sizes[own] / self._counts[own]:
                continue
            members = np.flatnonzero(there == room)
            slot = int(members[int(chances[row, 1] * len(members))])
            there[slot] = own
            sizes[room] -= 1
            sizes[own] += 1
            offered.append(row)
            slots.append(slot)
        return np.array(offered, np.int64), np.array(slots, np.int64)


def _arrays(rows: Rows) -> dict[str, np.ndarray]:
    tensors = {"numbers": rows.numbers, "categories": rows.categories, "labels": rows.labels}
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _key(outcome: Outcome) -> int:
    """Of a prediction, whose id may be used again later."""
    said = f"{outcome.predicted_at!r} {outcome.id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(said, digest_size=8).digest(), "little", signed=True)
