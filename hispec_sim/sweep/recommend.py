"""The mathematics of an answer: which points compete, which kind of decoding is advised, by what margin."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hispec_sim.errors import InputError
from hispec_sim.report.recommendation import KINDS, Kind, Margin
from hispec_sim.study.student import student_t
from hispec_sim.sweep.conditions import Conditions
from hispec_sim.sweep.expression import Expression

OBJECTIVES = {"tokens_per_s": False, "tpot_ms": True}
"""Columns that can be optimised, and whether less is better."""
SHOWN_VALUES = 8


def kind_of(n_levels: int) -> Kind:
    """The kind of decoding that so many levels make."""
    return KINDS[min(n_levels, 3) - 1]


def competing(
    table: pd.DataFrame, conditions: Conditions, *, where: str | None = None, max_tpot_ms: float | None = None
) -> pd.DataFrame:
    """The points that may be chosen from: those that were tried under one set of conditions and keep to `max_tpot_ms`.

    Raises InputError.
    """
    left = tried(table, conditions, where=where, load_is_chosen=max_tpot_ms is not None)
    if max_tpot_ms is None:
        return left
    feasible = left[left["tpot_ms"] <= max_tpot_ms]
    if feasible.empty:
        raise InputError(
            f"no point keeps to --max-tpot-ms {max_tpot_ms:g}; the quickest has {left['tpot_ms'].min():.3g} ms per "
            "output token"
        )
    return feasible


def tried(table: pd.DataFrame, conditions: Conditions, *, where: str | None, load_is_chosen: bool) -> pd.DataFrame:
    """The points under one set of conditions.

    Nobody chooses a condition (a text, an assumed acceptance): the best over its values would be the luckiest world,
    so all points must share one value. It says nothing of a point whose policy does not use it (NaN). The load may be
    chosen where a limit of latency holds it down. Raises InputError.
    """
    left = table if where is None else table[_holds(table, where)]
    if left.empty:
        raise InputError(f"no finished point of the sweep meets --where {where!r}" if where else "the sweep is empty")
    for name in (*conditions.fixed, *(() if load_is_chosen else conditions.load)):
        values = sorted(left[name].dropna().unique().tolist())
        if len(values) > 1:
            listed = ", ".join(map(str, values[:SHOWN_VALUES])) + (", ..." if len(values) > SHOWN_VALUES else "")
            cure = ", or give --max-tpot-ms to choose it too" if name in conditions.load else ""
            raise InputError(
                f"the sweep has {len(values)} values of {name} ({listed}), which is a condition and not a choice; "
                f'pick one with --where "{name} == {values[0]!r}"{cure}'
            )
    return left


def under_any_load(table: pd.DataFrame, points: pd.DataFrame, conditions: Conditions) -> pd.DataFrame:
    """The rows of the table under the same fixed conditions as the points that compete, at every load."""
    keep = np.ones(len(table), dtype=bool)
    for name in conditions.fixed:
        values = points[name].dropna().unique()
        keep &= (table[name].isna() | table[name].isin(values)).to_numpy()
    return table[keep]


def leading(points: pd.DataFrame, objective: str, per_kind: int) -> dict[Kind, pd.DataFrame]:
    """The `per_kind` best points of every kind that there is, the best first, and the best of every other drafting
    network: when inputs change, another draft may be the one to take."""
    if objective not in OBJECTIVES:
        raise InputError(f"the objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    ranked = points.sort_values([objective, "point"], ascending=[OBJECTIVES[objective], True], kind="stable")
    kinds = ranked["n_levels"].map(kind_of)
    leaders = {}
    for kind in KINDS:
        mine = ranked[kinds == kind]
        if len(mine):
            drafts = mine["levels"].map(lambda text: json.loads(text)[0]["network"])
            keep = np.arange(len(mine)) < per_kind
            leaders[kind] = mine[keep | ~(drafts.duplicated() | drafts.isin(drafts[keep])).to_numpy()]
    return leaders


def advise(score: Mapping[Kind, float], min_gain: float, luck: Mapping[tuple[Kind, Kind], float] | None = None) -> Kind:
    """The kind to run: from the simplest on, a more complex one where it gains at least `min_gain` (a share), and more
    than what luck alone could: `luck` is a ratio by (more complex kind, simpler kind)."""
    kinds = [kind for kind in KINDS if kind in score]
    advice = kinds[0]
    for kind in kinds[1:]:
        if score[kind] >= max(1 + min_gain, (luck or {}).get((kind, advice), 1.0)) * score[advice]:
            advice = kind
    return advice


def paired_ratio(above: Sequence[float] | NDArray[Any], below: Sequence[float] | NDArray[Any]) -> Margin:
    """Geometric mean of the ratios of two configurations' scores under the same luck, with its 95 % interval.

    Student's interval of the mean logarithm.
    """
    logs = np.log(np.asarray(above, dtype=float)) - np.log(np.asarray(below, dtype=float))
    mean, free = float(logs.mean()), len(logs) - 1
    if free < 1:
        raise InputError("a margin with an interval needs 2 repetitions, or 2 requests where a trace is replayed")
    half = student_t(free) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return Margin(ratio=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half))


def untried(points: pd.DataFrame) -> list[str]:
    """Where the single-layer alternatives were tuned less hard than the hierarchies: what only the latter tried."""
    drafts: dict[Kind, set[tuple[str, int]]] = {"single_layer": set(), "hierarchy": set()}
    lengths: dict[Kind, set[int]] = {"single_layer": set(), "hierarchy": set()}
    for n_levels, text in zip(points["n_levels"], points["levels"], strict=True):
        if n_levels > 1:
            levels = json.loads(text)
            drafts[kind_of(n_levels)].add((levels[0]["network"], levels[0]["exit_layer"]))
            lengths[kind_of(n_levels)].add(levels[1]["verify_period"])
    if not drafts["hierarchy"]:
        return []
    if not drafts["single_layer"]:
        return ["the sweep has no single-layer speculation, so what a hierarchy adds to it is not known"]
    notes = []
    missing = sorted(drafts["hierarchy"] - drafts["single_layer"])
    if missing:
        listed = ", ".join(f"{network}@{exit_layer}" for network, exit_layer in missing[:SHOWN_VALUES])
        notes.append(f"single-layer speculation was tuned less hard: it never drafted at {listed}")
    if max(lengths["single_layer"]) < max(lengths["hierarchy"]):
        notes.append(
            f"single-layer speculation was tuned less hard: its Nd went to {max(lengths['single_layer'])}, the "
            f"hierarchy's to {max(lengths['hierarchy'])}"
        )
    return notes


def records(points: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as mappings from column to value."""
    return [{str(name): value for name, value in row.items()} for row in points.to_dict("records")]


def _holds(table: pd.DataFrame, where: str) -> NDArray[np.bool_]:
    condition = Expression(where)
    condition.check_names({str(name): None for name in table.columns})
    rows = records(table[sorted(condition.names)])
    return np.array([any(map(_absent, row.values())) or condition.holds(row) for row in rows], dtype=bool)


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
