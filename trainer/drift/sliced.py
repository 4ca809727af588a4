"""Which slices moved: each column's distribution by the values of the model's slices, without the season."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.drift import bins
from trainer.drift.columns import SLICE_VALUES, Column, Slices
from trainer.drift.window import SliceMoved, Window

ROWS = 20
"""Rows that a value needs on both sides to be spoken of."""
MOST = 3
KEEP = 100_000.0
"""Rows at most that a distribution remembers; older ones weigh less and less."""


class Sliced:
    def __init__(self, columns: Sequence[Column], slices: Slices) -> None:
        self._columns, self.slices = columns, slices
        self._counts = np.zeros((len(slices.names), SLICE_VALUES + 1, len(columns), bins.BINS), np.float32)

    def add(self, window: Window, by: Sequence[np.ndarray | None]) -> None:
        """Take in a window, of the columns that have bins."""
        if not len(self._counts):
            return
        placed = np.full(window.values.shape, -1, np.int64)
        for number, (column, edges) in enumerate(zip(self._columns, by, strict=True)):
            if edges is not None:
                placed[:, number] = bins.placed(window.values[:, number], edges, column.categories)
        for number in range(len(self._counts)):
            counts = bins.counted(window.slices[:, number], SLICE_VALUES + 1, window.values, placed)
            self._counts[number] += counts[:, :, : bins.BINS]
        rows = self._counts.sum(axis=3, keepdims=True)
        self._counts *= np.minimum(1.0, KEEP / np.maximum(rows, 1.0)).astype(np.float32)

    def moved(self, column: int, window: Window, by: np.ndarray) -> tuple[SliceMoved, ...]:
        """Return the slices' values whose outcomes of the window are least like what they were."""
        placed = bins.placed(window.values[:, column], by, self._columns[column].categories)
        found: list[SliceMoved] = []
        for number, name in enumerate(self.slices.names):
            for code, value in enumerate(self.slices.values[number]):
                now = np.bincount(placed[window.slices[:, number] == code], minlength=bins.BINS)
                then = self._counts[number, code, column].astype(np.float64)
                rows = int(now.sum())
                if rows >= ROWS and then.sum() >= ROWS:
                    difference = now / rows - then / then.sum()
                    categories = self._columns[column].categories
                    effect = np.abs(difference).sum() / 2 if categories else np.abs(np.cumsum(difference)).max()
                    found.append(SliceMoved(name, value, float(effect), rows))
        return tuple(sorted(found, key=lambda one: -one.effect)[:MOST])

    def reset(self, columns: np.ndarray) -> None:
        self._counts[:, :, columns] = 0.0

    def state(self) -> Any:
        return [self._counts, self.slices.values]

    def restore(self, state: Any) -> None:
        self._counts, self.slices.values = state
