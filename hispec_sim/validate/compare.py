"""Real against simulated: a row per configuration, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hispec_sim.study.fidelity import Fidelity, fidelity, kendall_tau
from hispec_sim.study.uncertainty import interval
from hispec_sim.validate.budget import Budget
from hispec_sim.validate.contexts import by_context
from hispec_sim.validate.design import Configuration
from hispec_sim.validate.goals import verdicts
from hispec_sim.validate.observation import Observation
from hispec_sim.validate.prediction import Prediction

RATE = "tokens_per_s"
_SLACK = 1e-9  # equal values, differently rounded
FIGURES = (RATE, "tokens_per_target_pass", "forwards_per_token")


def row_of(
    configuration: Configuration,
    observations: Sequence[Observation],
    prediction: Prediction,
    budget: Budget,
    time_error: float,
) -> dict[str, Any]:
    """One configuration: `FIGURE_real` (median over repeats; `_low` and `_high` the least and greatest), `FIGURE_sim`
    (over the trace as it is; `_low` and `_high` the predicted interval), `FIGURE_error` = sim / real - 1."""
    row: dict[str, Any] = {
        "configuration": configuration.name,
        "exits": "-".join(map(str, configuration.exits)),
        "levels": len(configuration.exits) + 1,
        "draft_exit": configuration.exits[0] if configuration.exits else 0,
        "middle_exit": configuration.exits[1] if len(configuration.exits) > 1 else 0,
        "draft_length": configuration.draft_length if configuration.exits else 0,
        "verify_period": configuration.verify_periods[-1] if configuration.verify_periods else 0,
        "bonus": str(configuration.bonus) if configuration.exits else "",
        "batch": configuration.batch,
        "max_new_tokens": configuration.max_new_tokens,
        "repeats": len(observations),
    }
    real = [observation.figures.flat() for observation in observations]
    for name in real[0]:
        measured, middle = [each[name] for each in real], prediction.middle(name)
        low, high = interval(prediction.values(name), _beyond_draws(name, time_error), centre=middle)
        seen = float(np.median(measured))
        row |= {f"{name}_real": seen, f"{name}_real_low": min(measured), f"{name}_real_high": max(measured)}
        row |= {f"{name}_sim": middle, f"{name}_sim_low": low, f"{name}_sim_high": high}
        row[f"{name}_error"] = middle / seen - 1 if seen else float("nan")
    return row | {f"error_{part}": getattr(budget, part) for part in Budget.__slots__}


def row_of_blocks(blocks: Sequence[Observation], prediction: Prediction, time_error: float) -> dict[str, int]:
    """How many blocks of prompts were decoded, `blocks`, and in how many of them the real value of a figure of
    `FIGURES` was in the interval that is predicted for any block, `FIGURE_blocks_inside`. A campaign draws its prompts
    once, for all configurations; blocks are draws of their own."""
    row = {"blocks": len(blocks)}
    for name in FIGURES:
        values, beyond = prediction.block_values(name), _beyond_draws(name, time_error)
        low, high = interval(values, beyond, centre=prediction.middle(name))
        real = [block.figures.flat()[name] for block in blocks]
        row[f"{name}_blocks_inside"] = sum(low * (1 - _SLACK) <= each <= high * (1 + _SLACK) for each in real)
    return row


def _beyond_draws(name: str, time_error: float) -> float:
    """The relative standard error that repetitions do not tell."""
    return time_error if name == RATE or name.endswith("ms_per_token") else 0.0


def regret(rows: pd.DataFrame) -> float:
    """How much slower in reality the simulator's best choice is than the real best one, as a share."""
    real, simulated = rows[f"{RATE}_real"].to_numpy(), rows[f"{RATE}_sim"].to_numpy()
    return float(1 - real[simulated.argmax()] / real.max())


def overall(rows: pd.DataFrame, prompts: pd.DataFrame) -> dict[str, Any]:
    """Plain data: the fidelity of each figure; ranking and regret by batch, the ranking also with the outcomes or the
    times of the real runs; the median size of each part's error; the errors of `prompts` by context; and which `goals`
    are met."""
    by_batch: dict[str, Mapping[str, float]] = {}
    for batch, each in rows.groupby("batch"):
        real, simulated = each[f"{RATE}_real"].tolist(), each[f"{RATE}_sim"].tolist()
        stats = fidelity(each, RATE)
        by_batch[str(batch)] = {
            "configurations": len(each),
            "kendall_tau": kendall_tau(real, simulated),
            "kendall_tau_real_outcomes": _tau_with(each, "latency"),
            "kendall_tau_real_times": _tau_with(each, "acceptance"),
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
            if f"{name}_blocks_inside" in rows:
                inside = rows[f"{name}_blocks_inside"].sum() / rows["blocks"].sum()
                fidelities[name]["coverage_of_blocks"] = float(inside)
    parts = {part: _part(rows[f"error_{part}"]) for part in Budget.__slots__}
    largest = max(("latency", "acceptance", "control"), key=lambda part: parts[part]["median"])
    result = {
        "configurations": len(rows),
        "figures": fidelities,
        "by_batch": by_batch,
        "budget": parts,
        "largest_term": largest,
        "by_context": by_context(prompts),
    }
    return result | {"goals": verdicts(result)}


def _tau_with(rows: pd.DataFrame, part: str) -> float:
    """Kendall's tau of the ranking when all but one part of the prediction is real."""
    real = rows[f"{RATE}_real"]
    return kendall_tau(real.tolist(), (real * (1 + rows[f"error_{part}"])).tolist())


def _part(error: pd.Series) -> dict[str, float]:
    return {
        "median": float(error.abs().median()),
        "p95": float(error.abs().quantile(0.95)),
        "bias": float(error.mean()),
    }
