"""What a sweep's answer is drawn from: the points that compete, and a request of the recommended configuration."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hispec_sim.errors import InputError
from hispec_sim.report.recommendation import Recommendation
from hispec_sim.report.sweep_figures import Picture, pictures, with_design
from hispec_sim.report.timeline_figure import timeline
from hispec_sim.report.tornado import tornado
from hispec_sim.scenario.build import build_costs, build_policy
from hispec_sim.study.run import run_policy
from hispec_sim.study.summarise import label, steps_table
from hispec_sim.sweep.conditions import conditions_of
from hispec_sim.sweep.defaults import default_design
from hispec_sim.sweep.recommend import competing, under_any_load
from hispec_sim.sweep.results import Results


def pictures_of(
    results: Results, answer: Recommendation, heatmaps: Sequence[tuple[str, str]]
) -> tuple[pd.DataFrame, list[Picture]]:
    """The points that compete, with their design, and every picture that there is data for."""
    conditions = conditions_of(results.sweep)
    points = competing(results.table, conditions, where=answer.where, max_tpot_ms=answer.max_tpot_ms)
    loads = with_design(under_any_load(results.table, points, conditions))
    points = with_design(points)
    drawn = list(
        pictures(
            points,
            loads,
            heatmaps,
            limit_ms=answer.max_tpot_ms,
            recommended=answer.recommended.point,
            value=answer.objective,
            default=default_design(points),
        )
    )
    bars = tornado(answer)
    return points, [*drawn, *([bars] if bars is not None else [])]


def request_timeline(results: Results, answer: Recommendation) -> Picture:
    """One request as the recommended configuration decodes it. Raises InputError when the sweep lacks that point."""
    rows = results.table[results.table["point"] == answer.recommended.point]
    if rows.empty:
        raise InputError("the recommendation is of another state of this sweep; run `hispec recommend` again")
    loaded = results.scenario(rows.iloc[0])
    costs = build_costs(loaded)
    policy = build_policy(loaded, 0, {name: cost.profile.network.n_layers for name, cost in costs.items()})
    runs = run_policy(loaded.scenario, policy, costs, 1)
    return timeline(steps_table([runs]), policy.name, [label(level) for level in policy.cascade.levels])
