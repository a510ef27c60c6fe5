"""Labels for text that was sampled: drawn, given the text, as speculative rejection would have come to it.

Level k holds a sample of its distribution p_k, whichever level it came from (Leviathan et al. 2023, arXiv 2211.17192).
So, given that the target's token is y, it was the level below's with probability min(1, p_below(y) / p_target(y)), and
so on downwards as long as y stays the token. Where a level replaced what the one below held, y says nothing more about
the levels below; whether they had agreed on what was replaced is drawn from recorded or mean acceptance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_labels(
    log_prob: NDArray[np.float16], confirmed: NDArray[np.float64], rng: np.random.Generator
) -> list[list[int]]:
    """Labels of shape (positions, levels), the last level's 0: two neighbouring levels have one label exactly when the
    upper accepts what the lower holds.

    `log_prob`: (positions, levels), of the last level's token. `confirmed`: (positions or 1, levels - 2 or more),
    P(level k accepts what level k - 1 holds | level k + 1 rejects what level k holds) in column k - 1.
    """
    positions, levels = log_prob.shape
    known = log_prob.astype(np.float64)
    with np.errstate(invalid="ignore"):
        stays = np.nan_to_num(np.exp(np.minimum(known[:, :-1] - known[:, 1:], 0.0)))
    labels = np.zeros((positions, levels), np.int64)
    on_text = np.ones(positions, bool)
    uniform = rng.random((positions, max(levels - 1, 1)))
    for level in range(levels - 1, 0, -1):
        odds = stays[:, level - 1]
        if level < levels - 1:
            odds = np.where(on_text, odds, confirmed[:, level - 1])
        same = uniform[:, level - 1] < odds
        labels[:, level - 1] = np.where(same, labels[:, level], levels - level)
        on_text &= same
    rows: list[list[int]] = labels.tolist()
    return rows
