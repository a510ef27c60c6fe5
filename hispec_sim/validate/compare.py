"""Real against simulated: a row per configuration, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from hispec_sim.study.uncertainty import interval
from hispec_sim.validate.budget import Budget
from hispec_sim.validate.design import Configuration
from hispec_sim.validate.observation import Observation
from hispec_sim.validate.prediction import Prediction

RATE = "tokens_per_s"
FIGURES = (RATE, "tokens_per_target_pass", "forwards_per_token")


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How well one figure is predicted over all configurations: absolute relative errors, the mean signed one, and the
    share of configurations whose real value lies in the predicted interval."""

    median: float
    p95: float
    bias: float
    coverage: float


def row_of(
    configuration: Configuration,
    observations: Sequence[Observation],
    prediction: Prediction,
    budget: Budget,
    time_error: float,
) -> dict[str, Any]:
    """One configuration: `FIGURE_real` (median over repeats; `_low` and `_high` the least and greatest), `FIGURE_sim`
    (median over repetitions; `_low` and `_high` the predicted interval), `FIGURE_error` = sim / real - 1."""
    row: dict[str, Any] = {
        "configuration": configuration.name,
        "exits": "-".join(map(str, configuration.exits)),
        "levels": len(configuration.exits) + 1,
        "draft_exit": configuration.exits[0] if configuration.exits else 0,
        "draft_length": configuration.draft_length if configuration.exits else 0,
        "verify_period": configuration.verify_periods[-1] if configuration.verify_periods else 0,
        "bonus": str(configuration.bonus) if configuration.exits else "",
        "batch": configuration.batch,
        "max_new_tokens": configuration.max_new_tokens,
        "repeats": len(observations),
    }
    real = [observation.figures.flat() for observation in observations]
    for name in real[0]:
        measured = [each[name] for each in real]
        simulated = prediction.values(name)
        timed = name == RATE or name.endswith("ms_per_token")
        low, high = interval(simulated, time_error if timed else 0.0)
        middle, seen = float(np.median(simulated)), float(np.median(measured))
        row |= {f"{name}_real": seen, f"{name}_real_low": min(measured), f"{name}_real_high": max(measured)}
        row |= {f"{name}_sim": middle, f"{name}_sim_low": low, f"{name}_sim_high": high}
        row[f"{name}_error"] = middle / seen - 1 if seen else float("nan")
    return row | {f"error_{part}": getattr(budget, part) for part in Budget.__slots__}


def fidelity(rows: pd.DataFrame, name: str) -> Fidelity:
    """Over all rows that have the figure."""
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


def regret(rows: pd.DataFrame) -> float:
    """How much slower in reality the simulator's best choice is than the real best one, as a share."""
    real, simulated = rows[f"{RATE}_real"].to_numpy(), rows[f"{RATE}_sim"].to_numpy()
    return float(1 - real[simulated.argmax()] / real.max())


def overall(rows: pd.DataFrame) -> dict[str, Any]:
    """Plain data: the fidelity of each figure, ranking and regret by batch, the median size of each part's error."""
    by_batch: dict[str, Mapping[str, float]] = {}
    for batch, each in rows.groupby("batch"):
        real, simulated = each[f"{RATE}_real"].tolist(), each[f"{RATE}_sim"].tolist()
        stats = fidelity(each, RATE)
        by_batch[str(batch)] = {
            "configurations": len(each),
            "kendall_tau": kendall_tau(real, simulated),
            "regret": regret(each),
            "median_error": stats.median,
            "p95_error": stats.p95,
            "bias": stats.bias,
        }
    fidelities = {}
    for column in rows.columns:
        name = column.removesuffix("_error")
        if name != column and rows[column].notna().any():
            stats = fidelity(rows, name)
            fidelities[name] = {key: getattr(stats, key) for key in Fidelity.__slots__}
    parts = {part: _part(rows[f"error_{part}"]) for part in Budget.__slots__}
    largest = max(("latency", "acceptance", "control"), key=lambda part: parts[part]["median"])
    return {
        "configurations": len(rows),
        "figures": fidelities,
        "by_batch": by_batch,
        "budget": parts,
        "largest_term": largest,
    }


def _part(error: pd.Series) -> dict[str, float]:
    return {
        "median": float(error.abs().median()),
        "p95": float(error.abs().quantile(0.95)),
        "bias": float(error.mean()),
    }
