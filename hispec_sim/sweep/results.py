"""What a sweep's folder holds, as one table: the interface of everything that is built on sweeps.

The columns of `Results.table`, one row per finished point, in the order of the design space:

| column | meaning |
|---|---|
| `point` | content hash of the resolved configuration, its inputs, seed, repetitions and the code's version |
| `policy` | name of the policy in the sweep's base scenario |
| one per axis, under the axis's name | the point's value; NaN where the policy does not use the axis |
| `n_levels` | levels of the cascade; 1 is autoregressive |
| `levels` | JSON list of {"network", "exit_layer", "verify_period"}, draft first, target last; level 1's period is Nd |
| `bonus` | `always` or `on_mismatch` |
| `concurrency`, `prompt_tokens`, `output_tokens`, `repetitions` | of the workload |
| `engine` | `simpy`, or `vectorised` where a point was only screened |
| `tokens_per_s`, `tokens_per_s_low`, `tokens_per_s_high` | median over the repetitions, 2.5 % and 97.5 % quantile |
| `tpot_ms`, `tpot_ms_low`, `tpot_ms_high` | the same, of the milliseconds per output token |
| `tokens_per_target_pass` | median over the repetitions |
| `matched_per_drafted` | JSON list by level, median over the repetitions; null where it verifies nothing |
| `forwards_per_round` | JSON list by level, median over the repetitions |
| `time_share` | JSON list by level, mean over the repetitions |
| `tokens_per_s_runs` | JSON list by repetition; repetition i met the same luck at every point, so ratios are paired |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hispec_sim.errors import InputError
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.sweep.columns import DESCRIBING, MEASURED, NAMING
from hispec_sim.sweep.evaluate import Engine, Figures
from hispec_sim.sweep.load import Sweep, load_sweep
from hispec_sim.sweep.space import Space
from hispec_sim.sweep.store import TEXTS, Store


@dataclass(frozen=True, slots=True)
class Results:
    """A sweep's finished points (`table`, columns above), the checked sweep, and how they came about.

    `meta` has `format`, `code_version`, `command`, `date`, `engine`, `seed` and `n_points`, the size of the space: an
    interrupted sweep has fewer rows.
    """

    table: pd.DataFrame
    sweep: Sweep
    meta: Mapping[str, Any]
    _space: Space

    def scenario(self, row: Mapping[str, Any] | pd.Series[Any]) -> LoadedScenario:
        """The scenario of a row of the table: its policy alone, at its axes' values, with its named parameters.

        Its `with_parameter` varies it further. Raises InputError when a profile or trace has gone.
        """
        part = self._space.part(str(row["policy"]))
        # a column that some policies do not use holds floats: the axis has the value as it was given
        return part.scenario(
            {axis.name: next(value for value in axis.values if value == row[axis.name]) for axis in part.axes}
        )


def read_results(folder: Path) -> Results:
    """Read a sweep's folder, finished or not. Raises InputError when it is none, unreadable or of another format."""
    store = Store(folder)
    for name in TEXTS:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name} is missing; run the sweep again with this --out: what is finished is kept"
            )
    sweep = load_sweep(folder / "sweep.yaml")
    found = store.finished()
    rows = []
    for planned in store.plan():
        for engine in ("simpy", "vectorised"):
            figures = found.get((planned["point"], engine))
            if figures is not None:
                rows.append(_row(planned, engine, figures))
                break
    columns = [*NAMING, *(axis.name for axis in sweep.axes), *DESCRIBING, *MEASURED]
    return Results(pd.DataFrame(rows, columns=columns), sweep, store.meta, Space(sweep))


def _row(planned: Mapping[str, Any], engine: Engine, figures: Figures) -> dict[str, Any]:
    row: dict[str, Any] = {name: planned[name] for name in (*NAMING, *DESCRIBING)} | json.loads(planned["values"])
    row["engine"] = engine
    for name in ("tokens_per_s", "tpot_ms"):
        low, middle, high = np.quantile(getattr(figures, name), [0.025, 0.5, 0.975]).tolist()
        row |= {f"{name}_low": low, name: middle, f"{name}_high": high}
    row["tokens_per_target_pass"] = float(np.median(figures.tokens_per_target_pass))
    for name in ("matched_per_drafted", "time_share", "forwards_per_round"):
        row[name] = json.dumps([None if isnan(x) else x for x in getattr(figures, name)])
    row["tokens_per_s_runs"] = json.dumps(list(figures.tokens_per_s))
    return row
