"""The network for tabular features: a wide linear part and a small perceptron over hashed embeddings.

It is made to learn in tiny steps and to be published often: every category shares one table, so a step is few
operations and one gather, and the whole state is small. Feature statistics are part of that state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import Tensor, nn

from store.shape import DEFAULT_SHAPE, Shape

CLIP = 5.0
TINY_VARIANCE = 1e-8
EMBEDDING_SCALE = 0.05


class Standardise(nn.Module):
    """Standardise numbers by the mean and variance of all that was observed so far.

    `count` is float64 and only training needs it; `mean` and `variance` are float32. All have one entry per column.
    Unlike batch normalisation, serving and training see the same numbers, however small the batch.
    """

    training_only: frozenset[str] = frozenset({"count"})

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(numbers, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("variance", torch.ones(numbers))
        self.pooled: Callable[[Tensor], Tensor] = _alone
        """From the moments of the rows that are here to those of all rows, where several learn together."""

    @torch.no_grad()
    def observe(self, numbers: Tensor) -> None:
        """Take in the rows of `numbers`, float32 [n, k] with NaN for missing."""
        self.merge(*self.pooled(moments(numbers)))

    @torch.no_grad()
    def merge(self, new: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Take in what `moments` says of some rows (Chan's merge of mean and variance)."""
        total = self.count + new
        share = new / total.clamp(min=1.0)
        delta = mean - self.mean.double()
        merged = (1 - share) * self.variance + share * variance + share * (1 - share) * delta.square()
        self.mean.copy_(self.mean + share * delta)
        # Before the first value the variance stays at one.
        self.variance.copy_(torch.where(total > 0, merged, self.variance.double()))
        self.count.copy_(total)

    def forward(self, numbers: Tensor) -> Tensor:
        """Return float32 [n, 2k]: the numbers standardised and clipped, 0 where missing; then 1 where missing."""
        missing = torch.isnan(numbers)
        scaled = (numbers - self.mean) / torch.sqrt(self.variance + TINY_VARIANCE)
        known = torch.where(missing, 0.0, scaled.clamp(-CLIP, CLIP))
        return torch.cat([known, missing.to(numbers.dtype)], dim=1)


def moments(numbers: Tensor) -> Tensor:
    """Return float64 [3, k] of rows, float32 [n, k] with NaN for missing: how many are known, their mean and variance."""
    values = numbers.double()
    known = ~values.isnan()
    count = known.sum(0).double()
    # Columns that nobody filled in divide by one and weigh nothing.
    divisor = count.clamp(min=1.0)
    mean = values.nan_to_num(0.0).sum(0) / divisor
    variance = torch.where(known, values - mean, 0.0).square().sum(0) / divisor
    return torch.stack([count, mean, variance])


def pool(parts: Sequence[Tensor]) -> Tensor:
    """Return the `moments` of rows from those of their parts (Chan's merge)."""
    count, mean, variance = parts[0]
    for more, its_mean, its_variance in parts[1:]:
        total = count + more
        share = more / total.clamp(min=1.0)
        delta = its_mean - mean
        mean = mean + share * delta
        variance = (1 - share) * variance + share * its_variance + share * (1 - share) * delta.square()
        count = total
    return torch.stack([count, mean, variance])


def _alone(own: Tensor) -> Tensor:
    return own


class Cross(nn.Module):
    """A cross layer: the features, times a linear map of what came so far, added to that (Wang and others 2021, DCN V2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, features: Tensor, before: Tensor) -> Tensor:
        """Return float32 [n, width] of the features and of the layer before, both float32 [n, width]."""
        return features * self.linear(before) + before


def count_as(module: nn.Module, rows: int) -> None:
    """Let feature statistics whose counts were not kept weigh as much as so many rows."""
    for one in module.modules():
        if isinstance(one, Standardise):
            one.count.fill_(rows)


class TabularNetwork(nn.Module):
    """Logits from numbers and hashed categories: wide (linear in every bucket and number) plus deep (perceptron).

    `buckets` gives the number of rows that each category column owns in the table. A row of the table holds the
    bucket's embedding (`shape.dimension` values) and its wide weights (one per output).
    """

    offsets: Tensor

    def __init__(
        self,
        numbers: int,
        buckets: Sequence[int],
        outputs: int,
        *,
        shape: Shape = DEFAULT_SHAPE,
    ) -> None:
        super().__init__()
        if numbers == 0 and not buckets:
            raise ValueError("a network needs at least one number or category column; the schema gives none")
        dimension = self.dimension = shape.dimension
        self.outputs = outputs
        self.columns = len(buckets)
        self.has_numbers = numbers > 0
        self.has_categories = len(buckets) > 0
        if self.has_numbers:
            self.standardise = Standardise(numbers)
            self.wide = nn.Linear(2 * numbers, outputs, bias=False)
            nn.init.zeros_(self.wide.weight)
        if self.has_categories:
            self.register_buffer("offsets", torch.tensor([0, *accumulate(buckets[:-1])], dtype=torch.int64))
            self.table = nn.Parameter(_initial_table(sum(buckets), dimension, outputs))
        width = len(buckets) * dimension + 2 * numbers
        self.cross = nn.ModuleList(Cross(width) for _ in range(shape.cross))
        self.deep = _perceptron([width, *shape.hidden, outputs])

    @property
    def training_only(self) -> frozenset[str]:
        """The names in `state_dict` that only training needs: they are no part of an exported graph."""
        return frozenset(
            f"{name}.{buffer}"
            for name, module in self.named_modules()
            if isinstance(module, Standardise)
            for buffer in module.training_only
        )

    def observe(self, numbers: Tensor) -> None:
        """Update the feature statistics with the rows of `numbers`, float32 [n, k] with NaN for missing."""
        if self.has_numbers:
            self.standardise.observe(numbers)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Map numbers float32 [n, k] (NaN: missing) and categories int64 [n, c] to logits float32 [n, outputs]."""
        inputs: list[Tensor] = []
        wide: list[Tensor] = []
        if self.has_categories:
            rows = nn.functional.embedding(categories + self.offsets, self.table)
            embedded, weights = rows.split((self.dimension, self.outputs), dim=2)
            inputs.append(embedded.reshape(-1, self.columns * self.dimension))
            wide.append(weights.sum(dim=1))
        if self.has_numbers:
            scaled = self.standardise(numbers)
            inputs.append(scaled)
            wide.append(self.wide(scaled))
        deep = features = torch.cat(inputs, dim=1)
        for layer in self.cross:
            deep = layer(features, deep)
        logits = cast(Tensor, self.deep(deep))
        for part in wide:
            logits = logits + part
        return logits


def _initial_table(rows: int, dimension: int, outputs: int) -> Tensor:
    """Small random embeddings; wide weights start at zero, so a bucket never seen says nothing."""
    return torch.cat([torch.randn(rows, dimension) * EMBEDDING_SCALE, torch.zeros(rows, outputs)], dim=1)


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
