"""Tokens picked from rows over a vocabulary: the likeliest, the fewest that hold a share, or one drawn."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

BLOCK, FEW = 256, 64
"""Tokens of a block, and of one of a small vocabulary, which has at most so many blocks."""
UNLIKELY = 2.0**-10
"""Tokens so many times less likely than the likeliest are looked at only where the others do not hold enough."""
COLDEST = 1e-6
"""The least temperature above 0: logits are divided by it, and must stay far from what single precision can hold."""


def likeliest(logits: Tensor) -> Tensor:
    """The first of the largest in each row, (..., vocab_size) -> (...).

    In a CPU's memory NumPy looks for it, which takes a twentieth of the time of `torch.argmax` for 49,152 tokens.
    """
    if _numpy_reads(logits):
        return torch.from_numpy(logits.detach().numpy().argmax(axis=-1, keepdims=True)).squeeze(-1)
    return logits.argmax(dim=-1)


def first_choices(logits: Tensor) -> list[int]:
    """`likeliest` of rows (rows, vocab_size) as plain numbers, on a CPU without a tensor in between: behind a draft of
    one small layer every microsecond counts."""
    found = logits.detach().numpy().argmax(axis=-1) if _numpy_reads(logits) else logits.argmax(dim=-1)
    choices: list[int] = found.tolist()
    return choices


def _numpy_reads(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and logits.dtype == torch.float32


def draw(weights: Tensor, generator: torch.Generator) -> Tensor:
    """A token for each row of `weights` (rows, vocab_size), as likely as its weight is large; rows need not sum to one.

    Of a large vocabulary a block of tokens is drawn first, then one of the block: running sums over 128 rows of 49,152
    tokens take 37 ms, both draws 2. `torch.multinomial` draws a random number for every token: longer still.
    """
    rows, size = weights.shape
    if size <= 16 * BLOCK:
        return _draw(weights, generator)
    blocks = F.pad(weights, (0, -size % BLOCK)).view(rows, -1, BLOCK)
    block = _draw(blocks.sum(dim=-1), generator)
    return BLOCK * block + _draw(blocks[torch.arange(rows, device=block.device), block], generator)


def _draw(weights: Tensor, generator: torch.Generator) -> Tensor:
    """As `draw`: where the running sum of a row passes a uniform share of the whole. In double precision the share
    stays below the whole, so the token found has a weight."""
    sums = weights.cumsum(dim=-1, dtype=torch.float64)
    shares = torch.rand(len(sums), 1, generator=generator, dtype=torch.float64, device=generator.device)
    return torch.searchsorted(sums, shares.to(sums.device) * sums[:, -1:], right=True)[:, 0]


def drawn(weights: NDArray[np.float32], rng: np.random.Generator) -> int:
    """The same for one row (vocab_size,) in the host's memory, where NumPy's calls cost less than tensors, and Python's
    less than NumPy's for the few blocks of a small vocabulary and the few tokens of each."""
    size, place = (FEW, _place_of_few) if len(weights) <= FEW**2 else (BLOCK, _place)
    first = size * place(np.add.reduceat(weights, _firsts(len(weights), size)), rng.random())
    return first + place(weights[first : first + size], rng.random())


@lru_cache(maxsize=8)
def _firsts(length: int, size: int) -> NDArray[np.intp]:
    return np.arange(0, length, size)


def _place(weights: NDArray[np.float32], share: float) -> int:
    sums = weights.cumsum(dtype=np.float64)
    return int(sums.searchsorted(share * sums[-1], side="right"))


def _place_of_few(weights: NDArray[np.float32], share: float) -> int:
    sums = list(accumulate(weights.tolist()))
    return bisect_right(sums, share * sums[-1])


def distributions_of(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """What tokens are drawn from, (rows, vocab_size): the likeliest tokens that hold `top_p` of the probability at a
    temperature of at least `COLDEST`."""
    probabilities = torch.softmax(logits.float() * (1 / temperature), dim=-1)
    return probabilities if top_p == 1 else nucleus(probabilities, top_p)


def nucleus(probabilities: Tensor, share: float) -> Tensor:
    """Rows (rows, vocab_size) of the fewest likeliest tokens that hold `share` of the probability, scaled to sum to
    one; 0 for the others (Holtzman et al. 2020, arXiv 1904.09751).

    On a CPU most tokens are set aside before any are sorted: to sort 49,152 takes longer than to draft one.
    """
    if probabilities.device.type == "cpu":
        kept_rows = [torch.from_numpy(_nucleus_of(row, share))[None] for row in probabilities.numpy()]
        return kept_rows[0] if len(kept_rows) == 1 else torch.cat(kept_rows)
    ordered, order = probabilities.sort(dim=-1, descending=True)
    ordered[ordered.cumsum(dim=-1) - ordered >= share] = 0
    kept = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
    return kept / kept.sum(dim=-1, keepdim=True)


def _nucleus_of(row: np.ndarray, share: float) -> np.ndarray:
    likely = np.flatnonzero(row >= UNLIKELY * row.max())
    if row[likely].sum() < share:
        likely = np.arange(len(row))
    likely = likely[np.argsort(-row[likely])]
    kept = likely[: np.searchsorted(row[likely].cumsum(), share) + 1]
    nucleus_row = np.zeros_like(row)
    nucleus_row[kept] = row[kept] / row[kept].sum()
    return nucleus_row
