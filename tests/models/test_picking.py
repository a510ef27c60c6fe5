"""Picking tokens: the likeliest; drawn, as often as their weights say and never one without."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hispec_sim.models import picking
from hispec_sim.models.picking import draw, drawn, first_choices, likeliest


def test_as_often_as_the_weights_say() -> None:
    """Rows are independent and need not sum to one; within five standard errors."""
    weights = torch.tensor([[1.0, 0.0, 3.0, 4.0], [0.0, 5.0, 5.0, 0.0]])
    n = 20_000
    drawn = draw(weights.repeat_interleave(n, dim=0), torch.Generator().manual_seed(1)).reshape(2, n)
    for row, each in zip(weights / weights.sum(dim=-1, keepdim=True), drawn, strict=True):
        share = torch.bincount(each, minlength=4) / n
        assert ((share - row).abs() <= 5 * (row * (1 - row) / n).sqrt()).all()
    independent = (drawn[0] == 2) & (drawn[1] == 1)
    assert independent.float().mean() == pytest.approx(3 / 16, abs=0.015)


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-6, 0.1, 1.0, 3e7]), min_size=1, max_size=40).filter(any),
    share=st.sampled_from([0.0, 0.5, 1 - 2**-53]),
    block=st.sampled_from([1, 2, 256]),
    few=st.sampled_from([1, 2, 3, 64]),
)
def test_a_token_without_weight_is_never_drawn(weights: list[float], share: float, block: int, few: int) -> None:
    """Not even at the ends of the range of random numbers, in blocks or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picking, "BLOCK", block)
        patch.setattr(picking, "FEW", few)
        patch.setattr(picking.torch, "rand", lambda *size, **how: torch.full(size, share, dtype=torch.float64))
        token = int(draw(torch.tensor([weights]), torch.Generator()))
        rng = cast("np.random.Generator", SimpleNamespace(random=lambda: share))
        same = drawn(np.array(weights, np.float32), rng)
    assert weights[token] > 0
    assert weights[same] > 0


@pytest.mark.parametrize(
    ("size", "by_row"), [(16 * picking.BLOCK + 7, False), (16 * picking.BLOCK + 7, True), (2055, True)]
)
def test_of_a_vocabulary_in_blocks_too(size: int, by_row: bool) -> None:
    """A block first, then a token of it; the last block is not full. Within five standard errors."""
    n, weights = 20_000, torch.zeros(size)
    at = torch.tensor([0, 3, picking.BLOCK - 1, picking.BLOCK, 7 * picking.BLOCK + 5, size - 1])
    weights[at] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 1.0])
    if by_row:
        row, rng = weights.numpy(), np.random.default_rng(1)
        tokens = torch.tensor([drawn(row, rng) for _ in range(n)])
    else:
        tokens = draw(weights.expand(n, size), torch.Generator().manual_seed(1))
    counts, share = torch.bincount(tokens, minlength=size), weights / weights.sum()
    assert counts[weights == 0].sum() == 0
    assert ((counts / n - share).abs() <= 5 * (share * (1 - share) / n).sqrt()).all()


def test_one_row_is_drawn_from_like_many() -> None:
    """By NumPy, with the same random numbers: the same token."""
    size = 16 * picking.BLOCK + 7
    weights = torch.rand(1, size, generator=torch.Generator().manual_seed(0)) ** 8
    for seed in range(50):
        left = iter(np.random.default_rng(seed).random(2).tolist())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                picking.torch, "rand", lambda *n, left=left, **how: torch.full(n, next(left), dtype=torch.float64)
            )
            token = int(draw(weights, torch.Generator()))
        assert drawn(weights[0].numpy(), np.random.default_rng(seed)) == token


@pytest.mark.parametrize("size", [4, picking.BLOCK, 3 * picking.BLOCK + 1])
def test_one_row_is_drawn_from_as_often_as_its_weights_say(size: int) -> None:
    """In blocks or not; within five standard errors."""
    rng, n = np.random.default_rng(0), 20_000
    weights = np.zeros(size, np.float32)
    weights[[0, size // 2, size - 1]] = 1, 3, 4
    counts = np.bincount([drawn(weights, rng) for _ in range(n)], minlength=size)
    share = weights / weights.sum()
    assert counts[weights == 0].sum() == 0
    assert (np.abs(counts / n - share) <= 5 * np.sqrt(share * (1 - share) / n)).all()


def test_same_seed_same_tokens() -> None:
    weights = torch.rand(8, 1000)
    one, two = (draw(weights, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(1, 5), (7, 50), (2, 3, 50)])
def test_the_likeliest_is_the_first_of_the_largest(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Among ties too, in any type and number of dimensions, and where a gradient is wanted."""
    torch.manual_seed(0)
    logits = torch.randint(0, 4, shape).to(dtype).requires_grad_()
    first = (logits == logits.max(dim=-1, keepdim=True).values).int().argmax(dim=-1)
    found = likeliest(logits)
    assert first_choices(logits.flatten(0, -2)) == found.flatten().tolist()
    assert found.shape == shape[:-1]
    assert torch.equal(found, first)
