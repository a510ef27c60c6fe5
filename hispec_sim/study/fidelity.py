"""How well figures are predicted: errors over many, and whether they are ranked alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How well one figure is predicted over all configurations: absolute relative errors, the mean signed one, and the
    share of configurations whose real value lies in the predicted interval."""

    median: float
    p95: float
    bias: float
    coverage: float


def fidelity(rows: pd.DataFrame, name: str) -> Fidelity:
    """Over all rows that have the figure: columns `NAME_real`, `NAME_sim_low`, `NAME_sim_high` and `NAME_error`."""
    kept = rows.dropna(subset=[f"{name}_error"])
    error, real = kept[f"{name}_error"], kept[f"{name}_real"]
    slack = 1e-9 * real  # equal values, differently rounded
    inside = (kept[f"{name}_sim_low"] - slack <= real) & (real <= kept[f"{name}_sim_high"] + slack)
    return Fidelity(
        float(error.abs().median()), float(error.abs().quantile(0.95)), float(error.mean()), float(inside.mean())
    )


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Tau-b: +1 where two rankings agree in every pair, -1 where in none; pairs that tie in one ranking count for
    neither. NaN where a ranking has no order."""
    agree, ordered = 0.0, [0, 0]
    for i, j in combinations(range(len(first)), 2):
        a, b = np.sign(first[i] - first[j]), np.sign(second[i] - second[j])
        agree += float(a * b)
        ordered[0] += a != 0
        ordered[1] += b != 0
    return agree / float(np.sqrt(ordered[0] * ordered[1])) if all(ordered) else float("nan")
