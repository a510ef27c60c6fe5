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
| `matched_per_drafted`, `time_share`, `forwards_per_round` | JSON lists by level, mean over the repetitions; null where a level verifies nothing |
| `tokens_per_s_runs` | JSON list by repetition; repetition i met the same luck at every point, so ratios are paired |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.sweep.load import Sweep


@dataclass(frozen=True, slots=True)
class Results:
    """A sweep's finished points (`table`, columns above), the checked sweep, and how they came about.

    `meta` has `format`, `code_version`, `command`, `date`, `engine`, `seed` and `n_points`, the size of the space: an
    interrupted sweep has fewer rows.
    """

    table: pd.DataFrame
    sweep: Sweep
    meta: Mapping[str, Any]

    def scenario(self, row: Mapping[str, Any] | pd.Series[Any]) -> LoadedScenario:
        """The scenario of a row of the table: its policy alone, at its axes' values, with its named parameters.

        Its `with_parameter` varies it further. Raises InputError when a profile or trace has gone.
        """
        raise NotImplementedError


def read_results(folder: Path) -> Results:
    """Read a sweep's folder, finished or not. Raises InputError when it is none, unreadable or of another format."""
    raise NotImplementedError
