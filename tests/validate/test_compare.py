"""The arithmetic of a validation, on tables small enough to check by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hispec_sim.study.fidelity import fidelity, kendall_tau
from hispec_sim.study.uncertainty import interval
from hispec_sim.validate.budget import Budget, budget
from hispec_sim.validate.compare import overall, regret, row_of_blocks
from hispec_sim.validate.contexts import by_context
from hispec_sim.validate.design import Configuration
from hispec_sim.validate.forwards import Times, forwards_table, machine_error, summed_times
from hispec_sim.validate.goals import verdicts
from hispec_sim.validate.observation import Figures, Observation, Shape
from hispec_sim.validate.prediction import Prediction, Predictor
from hispec_sim.validate.strata import resampled

NO_PROMPTS = pd.DataFrame({"context": [], "error": []})


def table(real: list[float], simulated: list[float], reach: float = 0.0) -> pd.DataFrame:
    """Rates of some configurations; the intervals reach as far on both sides."""
    rows = pd.DataFrame({"tokens_per_s_real": real, "tokens_per_s_sim": simulated})
    rows["tokens_per_s_error"] = rows["tokens_per_s_sim"] / rows["tokens_per_s_real"] - 1
    rows["tokens_per_s_sim_low"] = rows["tokens_per_s_sim"] - reach
    rows["tokens_per_s_sim_high"] = rows["tokens_per_s_sim"] + reach
    return rows


def test_errors_bias_and_coverage() -> None:
    """+10 %, -10 %, +20 %, and two of three real values within 12."""
    found = fidelity(table([100, 100, 100], [110, 90, 120], reach=12), "tokens_per_s")
    assert found.median == pytest.approx(0.1)
    assert found.p95 == pytest.approx(0.19)
    assert found.bias == pytest.approx(0.2 / 3)
    assert found.coverage == pytest.approx(2 / 3)


def figures(rate: float, per_pass: float) -> Figures:
    return Figures(rate, per_pass, (math.nan,), 1.0, (1000 / rate,))


def observed(rate: float, per_pass: float) -> Observation:
    return Observation("c", 0, 8, 8000 / rate, 0.0, 1.0, figures(rate, per_pass), {}, [], "")


def test_blocks_have_an_interval_of_their_own() -> None:
    """Predicted 100 and 2; blocks of resamples scatter by a tenth, so that 95 % of blocks are within a fifth or so."""
    spread = tuple(figures(100 * math.exp(z), 2 * math.exp(z)) for z in (-0.1, 0.1) * 8)
    prediction = Prediction((figures(100, 2), figures(100, 2)), (figures(70, 1),), spread)
    blocks = [observed(100, 2), observed(84, 2.4), observed(70, 3), observed(122, 1.3)]
    row = row_of_blocks(blocks, prediction, 0.0)
    assert row == {
        "blocks": 4, "tokens_per_s_blocks_inside": 3, "tokens_per_target_pass_blocks_inside": 2,
        "forwards_per_token_blocks_inside": 4,
    }  # fmt: skip
    assert row_of_blocks(blocks, prediction, 0.3)["tokens_per_s_blocks_inside"] == 4, "an error of times comes on top"
    rows = table([100, 100], [100, 100]).assign(batch=1, blocks=[4, 2], tokens_per_s_blocks_inside=[3, 2])
    rows = rows.assign(**{f"error_{part}": 0.0 for part in Budget.__slots__})
    assert overall(rows, NO_PROMPTS)["figures"]["tokens_per_s"]["coverage_of_blocks"] == pytest.approx(5 / 6)


def test_regret_is_what_the_choice_costs() -> None:
    """The simulator takes the second, which is really 80 where the third would be 100."""
    assert regret(table([50, 80, 100], [60, 99, 98])) == pytest.approx(0.2)
    assert regret(table([50, 80, 100], [1, 2, 3])) == 0


def test_rankings_with_one_part_real_by_hand() -> None:
    """Predicted times swap the first two, predicted outcomes the last two, both together both pairs of six."""
    rows = table([10, 20, 30, 40], [21, 19, 45, 35])
    rows["batch"] = 1
    rows = rows.assign(error_latency=[1.1, 0, 0, 0], error_acceptance=[0, 0, 0.5, 0])
    rows = rows.assign(error_control=0.0, error_machine=0.0, error_host=0.0)
    found = overall(rows, NO_PROMPTS)["by_batch"]["1"]
    assert found["kendall_tau"] == pytest.approx(2 / 6)
    assert found["kendall_tau_real_outcomes"] == pytest.approx(4 / 6)
    assert found["kendall_tau_real_times"] == pytest.approx(4 / 6)


def test_errors_by_context_by_hand() -> None:
    """Ten prompts in five ranges of two: too fast by 1 % at the shortest contexts, too slow by 3 % at the longest."""
    errors = pd.DataFrame({"context": [10.0 * n for n in range(10)], "error": [0.01] * 2 + [0.0] * 6 + [-0.03] * 2})
    found = by_context(errors)
    assert [(each["from"], each["to"], each["prompts"]) for each in found][::4] == [(0, 10, 2), (80, 90, 2)]
    assert [each["bias"] for each in found] == pytest.approx([0.01, 0, 0, 0, -0.03])
    assert found[4]["median"] == pytest.approx(0.03)
    assert by_context(NO_PROMPTS) == []
    assert len(by_context(errors.assign(context=7.0))) == 1, "all alike"


def test_goals_are_met_or_missed() -> None:
    """Errors of 1 % and 6 %: a median within 2 %, a 95th percentile above 5 %; all in their intervals is too many."""
    rows = table([100, 50], [101, 53], reach=12).assign(batch=1, blocks=[10, 10], tokens_per_s_blocks_inside=[9, 10])
    rows = rows.assign(**{f"error_{part}": 0.0 for part in Budget.__slots__})
    rows = rows.assign(tokens_per_target_pass_real=2.0, tokens_per_target_pass_error=[0.01, 0.03])
    rows = rows.assign(tokens_per_target_pass_sim_low=1.0, tokens_per_target_pass_sim_high=3.0)
    found = {each["goal"]: each for each in overall(rows, NO_PROMPTS)["goals"]}
    assert {goal: each["met"] for goal, each in found.items()} == {
        "tokens_per_s, median error": False, "tokens_per_s, p95 error": False,
        "tokens_per_target_pass, median error": False, "Kendall tau, batch 1": True, "regret, batch 1": True,
        "tokens_per_s of configurations in its interval": False,
        "tokens_per_s of blocks of prompts in its interval": True,
    }  # fmt: skip
    assert found["tokens_per_s, median error"]["value"] == pytest.approx(0.035)
    assert not verdicts({"figures": {"tokens_per_s": {"median": math.nan, "p95": 0.0}}, "by_batch": {}})[0]["met"]


def test_tau_by_hand() -> None:
    """Five of six pairs agree and one does not; with a tie, that pair counts for neither."""
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(2 * 3))
    assert math.isnan(kendall_tau([1, 1], [1, 2]))


@given(st.lists(st.floats(1, 100), min_size=2, max_size=12, unique=True))
def test_tau_of_a_ranking_with_itself_and_its_reverse(values: list[float]) -> None:
    assert kendall_tau(values, values) == pytest.approx(1)
    assert kendall_tau(values, [-value for value in values]) == pytest.approx(-1)


@pytest.mark.parametrize("repetitions", [3, 4, 20, 40])
def test_an_interval_covers_as_often_as_it_says(repetitions: int) -> None:
    """Values of a lognormal with spread .1, and a common error of .05 that the repetitions do not show."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        values = 100 * np.exp(0.1 * rng.standard_normal(repetitions))
        low, high = interval(values, relative_error=0.05, centre=100.0)
        inside += low <= 100 * math.exp(math.hypot(0.05, 0.1) * rng.standard_normal()) <= high
    assert 0.925 <= inside / 1000 <= 0.975


def test_an_interval_around_another_centre_is_as_wide() -> None:
    low, high = interval([90.0, 100.0, 110.0], 0.1)
    assert interval([90.0, 100.0, 110.0], 0.1, centre=50.0) == pytest.approx((low / 2, high / 2))


def test_an_interval_without_spread_is_a_point() -> None:
    assert interval([3.0, 3.0]) == pytest.approx((3, 3))
    assert all(math.isnan(end) for end in interval([float("nan")]))


def test_resampling_twice_has_both_errors() -> None:
    """The mean of few groups on few recorded groups varies by both numbers: var / 10 + var / 20."""
    rng = np.random.default_rng(1)
    values = np.repeat(np.arange(20.0), 3)
    groups = [[3 * g, 3 * g + 1, 3 * g + 2] for g in range(20)]
    means = [values[resampled(groups, 30, 10, rng)].mean() for _ in range(4000)]
    assert np.var(means) == pytest.approx(values.var() * (1 / 10 + 1 / 20), rel=0.1)


def test_forwards_by_hand() -> None:
    """In two runs: drafts of 1 ms priced at 2 (in all 30 of 60 ms too much), and a target pass priced right."""
    draft, target = Shape("target", 0, 4, 1, 1, 1), Shape("target", 4, 40, 1, 3, 3)
    runs = [{draft: Times(10, 10.0, 20.0), target: Times(3, 30.0, 30.0)}, {draft: Times(20, 20.0, 40.0)}]
    rows = forwards_table(summed_times(runs)).to_dict("records")
    assert rows[0] == {
        "first_layer": 0, "last_layer": 4, "batch": 1, "tokens": 1, "logits": 1, "forwards": 30, "real_ms": 1.0,
        "simulated_ms": 2.0, "error": 1.0, "time_share": 0.5, "error_share": 0.5,
    }  # fmt: skip
    assert (rows[1]["forwards"], rows[1]["real_ms"], rows[1]["error"], rows[1]["error_share"]) == (3, 10.0, 0.0, 0.0)


def test_a_part_of_a_campaign_is_taken_apart_with_what_is_shared_out_among_it() -> None:
    """One of many requests was decoded: the trace is shared out evenly among that one."""
    asked: list[tuple[object, int | None]] = []

    def even_samplers(configuration: object, requests: int | None = None) -> list[None]:
        asked.append((configuration, requests))
        return [None]

    log = SimpleNamespace(duration_ms=[400.0, 400.0])
    predictor = SimpleNamespace(
        pricer=lambda configuration: None,
        jitter=lambda repetition: None,
        run=lambda *_: [log],
        even_samplers=even_samplers,
    )
    run = replace(observed(10, 2), verified=[[]])
    found = budget(cast("Predictor", predictor), cast("Configuration", "c"), run, 0.25)
    assert (asked, found.machine) == ([("c", 1)], 0.25)
    assert found.latency == found.acceptance == found.control == pytest.approx(0)


def test_the_part_of_the_machine_by_hand() -> None:
    """Ten drafts took 12 ms here, and elsewhere what they cost; a pass of 30 ms was priced 25 here and 20 in two other
    runs, where contexts are shorter and it took 24; what only this run had is left out."""
    draft, target, alone = (Shape("target", 0, n, 1, 1, 1) for n in (4, 40, 8))
    own = {draft: Times(10, 12.0, 10.0), target: Times(1, 30.0, 25.0), alone: Times(1, 99.0, 50.0)}
    others = {draft: Times(10, 10.0, 10.0), target: Times(2, 48.0, 40.0)}
    assert machine_error(own, summed_times([own, others])) == pytest.approx((12 + 30) / (10 + 30) - 1)
    assert math.isnan(machine_error(own, own))
