"""Times along the context, drawn towards straight lines as far as scatter explains what keeps them off.

Attention reads the cached keys and values once, so a layer takes a time that is fixed and one in proportion to the
context. Where kernels make steps of it, points leave the line by more than their own scatter, and stand as they are;
where they leave it by no more, four points on a line tell more than four points by themselves. In between they are
drawn by the share that scatter explains (James and Stein 1961, the positive part).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Curve:
    """Milliseconds at contexts, both in order, and the relative standard error of each."""

    contexts: tuple[int, ...]
    ms: tuple[float, ...]
    errors: tuple[float, ...]


def drawn(curves: Sequence[Curve]) -> list[tuple[float, ...]]:
    """The milliseconds of each curve, nearer to its line; those of one or two contexts as they are. All curves have one
    share in common, for each has too few points to tell its own."""
    lines = [_line(curve) for curve in curves]
    bent = [(curve, line) for curve, line in zip(curves, lines, strict=True) if len(curve.ms) > 2]
    off = sum(float(np.sum((np.array(curve.ms) / line - 1) ** 2)) for curve, line in bent)
    scatter = sum((1 - 2 / len(curve.ms)) * float(np.sum(np.square(curve.errors))) for curve, _ in bent)
    kept = max(0.0, 1 - scatter / off) if off > 0 else 1.0
    return [
        tuple((line + kept * (np.array(curve.ms) - line)).tolist()) for curve, line in zip(curves, lines, strict=True)
    ]


def _line(curve: Curve) -> NDArray[np.float64]:
    """The line of least relative squares that does not fall and is nowhere below half of the least time."""
    ms, contexts = np.array(curve.ms), np.array(curve.contexts, dtype=np.float64)
    if len(ms) < 3:
        return ms
    relative = np.stack([np.ones(len(ms)), contexts], axis=1) / ms[:, None]
    fixed, slope = np.linalg.lstsq(relative, np.ones(len(ms)), rcond=None)[0]
    if slope < 0:
        fixed, slope = float(np.sum(1 / ms) / np.sum(1 / ms**2)), 0.0
    return np.maximum(ms.min() / 2, fixed + slope * contexts)
