"""Old outcomes that are learned again: a sample of all that came, of bounded size, as encoded rows.

What is drawn follows from the batch's seed, and what is kept is in the checkpoint; so a replay ends with the same bits. The
sample is written whole with every version: a third of a megabyte for 2,048 rows of 40 columns, packed in a fraction of the
time that a version takes otherwise.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from store.errors import SpecError
from store.learning import LABEL, Replay
from store.spec import ModelRecord
from trainer.rows import STRATA, Rows

MOST_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class _Before:
    """What the last batch replaced."""

    held: int
    counts: np.ndarray
    full: np.ndarray
    slots: np.ndarray
    contents: dict[str, np.ndarray]


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
        row_bytes = 4 * (numbers + columns) + 10
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

    def offer(self, rows: Rows, draw: np.random.Generator) -> None:
        """Take in a micro-batch that was learned."""
        strata = rows.strata[self.by] if self._stratified else np.zeros(len(rows), np.int64)
        counts, full, held = self._counts.copy(), self._full.copy(), self._held
        free = min(len(rows), self._settings.capacity - held)
        self._counts += np.bincount(strata[:free], minlength=STRATA)
        contents = (rows.numbers, rows.categories, rows.labels, torch.from_numpy(strata))
        arrays = {name: tensor.cpu().numpy() for name, tensor in zip(self._kept, contents, strict=True)}
        self._write(np.arange(held, held + free), {name: array[:free] for name, array in arrays.items()})
        self._held += free
        choose = self._chosen_by_stratum if self._stratified else self._chosen
        offered, slots = choose(strata[free:], draw)
        slots_before = {name: kept[slots].copy() for name, kept in self._kept.items()}
        self._before = _Before(held, counts, full, slots, slots_before)
        self._write(slots, {name: array[free:][offered] for name, array in arrays.items()})

    def undo(self) -> None:
        """Be as before the batch that was offered since `begin`, if one was."""
        if (before := self._before) is not None:
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
            given = tensors[name].numpy()
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
