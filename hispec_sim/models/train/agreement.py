"""How often exits predict what the full network predicts: the formulas, on plain arrays.

Predictions are token ids of shape (texts, positions): what a reader of the text so far would say next. All shares come
with the standard error over texts, since neighbouring positions of one text are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOOP = 8
"""Tokens that make a repetition: a position is looped if the 8 tokens that end there stood before in the same text."""

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of positions."""

    value: float
    """NaN if there is no position."""
    error: float
    """Standard error over texts; NaN if only one has positions."""
    positions: int


@dataclass(frozen=True, slots=True)
class Pair:
    """What a draft exit and a middle exit say about the full network, for a three-level cascade."""

    draft: int
    middle: int
    same: Share
    """P(middle = draft)."""
    full_if_same: Share
    """P(full = middle | middle = draft)."""
    full_if_differ: Share
    """P(full = middle | middle differs from draft)."""
    full_if_independent: float
    """P(full = middle): what both would be if acceptance at the two levels were independent."""


def share(hits: Mask, among: Mask | None = None) -> Share:
    """The share of `among` (all positions by default) that are hits; both of shape (texts, positions)."""
    chosen = np.ones_like(hits) if among is None else among
    counts, found = chosen.sum(1), (hits & chosen).sum(1)
    positions = int(counts.sum())
    if positions == 0:
        return Share(math.nan, math.nan, 0)
    value = float(found.sum() / positions)
    return Share(value, _ratio_error(found.astype(float), counts, value), positions)


def mean_share(values: NDArray[np.float64]) -> Share:
    """The mean of a quantity between 0 and 1 over all positions, shape (texts, positions)."""
    counts = np.full(len(values), values.shape[1])
    value = float(values.mean())
    return Share(value, _ratio_error(values.sum(1), counts, value), values.size)


def _ratio_error(found: NDArray[np.float64], counts: NDArray[np.int64], ratio: float) -> float:
    """Standard error of sum(found) / sum(counts), linearised, with texts as the independent units (Cochran 1977)."""
    n = int((counts > 0).sum())
    if n < 2:
        return math.nan
    residual = found - ratio * counts
    return float(math.sqrt(n / (n - 1) * (residual**2).sum()) / counts.sum())


def looped(tokens: Ids, first: int, length: int = LOOP) -> Mask:
    """Which positions from `first` on end `length` tokens that stood before in the same text.

    tokens: (texts, tokens); the result has shape (texts, tokens - first).
    """
    marks = np.zeros(tokens.shape, bool)
    for row, text in enumerate(tokens.tolist()):
        seen: set[tuple[int, ...]] = set()
        for end in range(length, len(text) + 1):
            run = tuple(text[end - length : end])
            marks[row, end - 1] = run in seen
            seen.add(run)
    return marks[:, first:]


def pair(predictions: Mapping[int, Ids], draft: int, middle: int, full: int) -> Pair:
    """The conditional agreements of a draft and a middle exit with the exit layer `full`."""
    same = predictions[middle] == predictions[draft]
    right = predictions[full] == predictions[middle]
    return Pair(draft, middle, share(same), share(right, same), share(right, ~same), share(right).value)


def acceptance(target: NDArray[np.float64], draft: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that a draft's sample is accepted, sum of min(target, draft) over the vocabulary (Leviathan et al.
    2023, arXiv 2211.17192, corollary 3.6); both (..., vocab_size), the result (...)."""
    accepted: NDArray[np.float64] = np.minimum(target, draft).sum(-1)
    return accepted
