"""Feature statistics that several workers pool are those of one who sees all the rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.network import Standardise, moments, pool


def _rows(seed: int, rows: int, missing: float) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.randn(rows, 3, generator=draw) * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([0.0, 1e4, -5.0])
    return torch.where(torch.rand(rows, 3, generator=draw) < missing, torch.nan, numbers)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 5), st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_moments_of_parts_pool_to_those_of_all(seed: int, rows: int, parts: int, missing: float) -> None:
    numbers = _rows(seed, rows, missing)
    pooled = pool([moments(numbers[part::parts]) for part in range(parts)])
    assert torch.allclose(pooled, moments(numbers), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("workers", [2, 3])
def test_pooled_statistics_follow_batch_after_batch_as_one_worker_s(workers: int) -> None:
    alone, together = Standardise(3), Standardise(3)
    for batch in range(20):
        numbers = _rows(batch, 50, 0.2)
        parts = [numbers[rank::workers] for rank in range(workers)]
        together.pooled = lambda _, parts=parts: pool([moments(part) for part in parts])
        alone.observe(numbers)
        together.observe(parts[0])
    assert torch.equal(alone.count, together.count)
    assert torch.allclose(alone.mean, together.mean, rtol=1e-6)
    assert torch.allclose(alone.variance, together.variance, rtol=1e-6)
