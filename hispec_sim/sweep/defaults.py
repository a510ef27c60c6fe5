"""The untuned default of the paper that proposed the hierarchy, as a configuration to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from hispec_sim.errors import InputError
from hispec_sim.scenario.build import build_costs
from hispec_sim.scenario.schema import ChainSpec, LevelSpec, TraceSpec
from hispec_sim.sweep.candidate import Candidate, parse_levels


@cache
def paper_default() -> Mapping[str, Any]:
    """What the paper that proposed the hierarchy ran untuned (`data/hispec_default.yaml`)."""
    text = files("hispec_sim").joinpath("data/hispec_default.yaml").read_text(encoding="utf-8")
    data: Mapping[str, Any] = yaml.safe_load(text)
    return data


def default_exits(n_layers: int) -> tuple[int, int]:
    """The paper's draft and early-verification exits for a target of so many layers."""
    given = paper_default()
    draft, middle = given["exits"].get(n_layers) or [max(1, round(share * n_layers)) for share in given["shares"]]
    return draft, max(middle, draft + 1)


def is_default(levels: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the levels (draft first, as in a sweep's table) are the paper's default."""
    if len(levels) != 3 or len({level["network"] for level in levels}) > 1:
        return False
    exits = (levels[0]["exit_layer"], levels[1]["exit_layer"])
    periods = (levels[1]["verify_period"], levels[2]["verify_period"])
    given = paper_default()
    return exits == default_exits(levels[2]["exit_layer"]) and periods == (
        given["draft_length"],
        given["verify_period"],
    )


def default_like(hierarchy: Candidate) -> Candidate | None:
    """The paper's default in a hierarchy's place; None where the acceptance of other exits is not known there.

    A trace and an exit curve know every exit; numbers given for certain exits say nothing of others.
    """
    loaded = hierarchy.loaded
    policy = loaded.scenario.policies[0]
    target = policy.levels[-1].network
    if len(policy.levels) != 3 or not isinstance(policy.acceptance, TraceSpec | ChainSpec):
        return None
    n_layers = build_costs(loaded)[target].profile.network.n_layers
    draft, middle = default_exits(n_layers)
    given = paper_default()
    levels = [
        LevelSpec(network=target, exit_layer=draft, draft_length=given["draft_length"]),
        LevelSpec(network=target, exit_layer=middle),
        LevelSpec(network=target, verify_period=given["verify_period"]),
    ]
    scenario = loaded.scenario.model_copy(
        update={"policies": [policy.model_copy(update={"name": "HiSpec default", "levels": levels})]}
    )
    candidate = Candidate("paper_default", "", replace(loaded, scenario=scenario))
    try:
        candidate.configuration()
    except InputError:  # the trace or the curve does not know these exits
        return None
    return candidate


def default_design(points: pd.DataFrame) -> dict[str, float]:
    """Where the default lies among a sweep's points, by `report.sweep_figures.DESIGN`."""
    n_layers = {parse_levels(text)[-1]["exit_layer"] for text in points["levels"]}
    if len(n_layers) != 1:
        return {}
    draft, middle = default_exits(n_layers.pop())
    given = paper_default()
    return {"draft exit": draft, "middle exit": middle, "Nd": given["draft_length"], "Ni": given["verify_period"]}
