"""The claim of the product, small: the reference model decoded for real and simulated, side by side."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from measured import EXITS, reference

from hispec_sim.acceptance.trace import Exit, Prompt
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.profiler.agreement import Plan, record_batch
from hispec_sim.profiler.prompts import Split, prompt_set
from hispec_sim.report.validation_page import validation_page
from hispec_sim.validate.campaign import Campaign, compare_all
from hispec_sim.validate.compare import overall
from hispec_sim.validate.decoding import observe, usable_prompts
from hispec_sim.validate.design import load_design
from hispec_sim.validate.observation import Observation
from hispec_sim.validate.prediction import Predictor

DESIGN = Path(__file__).parents[2] / "scenarios" / "validation" / "small.yaml"


@dataclass(frozen=True)
class Small:
    """What the small design came to: runs, rows, the forwards of the runs, and the errors by prompt."""

    observations: list[Observation]
    rows: pd.DataFrame
    forwards: pd.DataFrame
    prompts: pd.DataFrame


@pytest.fixture(scope="module")
def rows(small: Small) -> pd.DataFrame:
    return small.rows


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The small design on the model that is shipped, with a trace of the same prompts and a profile of the moment."""
    plan = load_design(DESIGN)
    configurations = plan.expand()
    assert len(configurations) == 10
    model, profile = reference()
    network = model.network
    new_tokens = configurations[0].max_new_tokens
    kept = usable_prompts(prompt_set("reference", Split.HELD_OUT), model, plan.prompts, new_tokens, lambda: None)
    ids = [model.tokenizer.encode(text.text) for text in kept]
    name = network.config.shape.name
    exits = tuple(Exit(name, depth) for depth in (*EXITS, network.config.shape.n_layers))
    recording = Plan(exits, exits[1:2], new_tokens, places=new_tokens, tokens=2 * new_tokens)
    about = [Prompt(text.name, text.group, "", len(tokens)) for text, tokens in zip(kept, ids, strict=True)]
    trace = record_batch({name: network}, recording, ids, about, 0, model.tokenizer.stop_ids)
    cost = NetworkCost(profile, tensor_parallel=1)
    sizes = plan.block_sizes()
    assert sizes == [4, 4]
    parts = {each: [part for block in each.parts(sizes) for part in block] for each in configurations}
    predictor = Predictor(
        trace, cost, list(map(len, ids)), block_sizes=sizes, strata=(), paired=range(len(ids)), seed=0
    )
    campaign = Campaign(tmp_path_factory.mktemp("validation"), {}, resume=False)
    runs = campaign.missing(configurations, 1, sizes)
    campaign.decode(runs, lambda c, r, part: observe(c, r, network, [ids[k] for k in parts[c][part]], time.thread_time))
    observations = [each for configuration in configurations for each in campaign.observations(configuration)]
    compared = compare_all(campaign, configurations, predictor, 4)
    return Small(observations, compared.rows, compared.forwards, compared.prompts)


@pytest.mark.parametrize("name", ["tokens_per_target_pass", "forwards_per_token", "matched_per_drafted_1"])
def test_what_was_recorded_is_replayed_exactly(rows: pd.DataFrame, name: str) -> None:
    """Each request replays its own prompt and all that follows wrong tokens, so that outcomes leave no error."""
    known = rows.dropna(subset=[f"{name}_real"])
    assert len(known) == (8 if name.startswith("matched") else 10)
    assert known[f"{name}_error"].abs().max() < 1e-9


def test_control_leaves_no_error(rows: pd.DataFrame) -> None:
    """The run's own outcomes at the run's own mean times take the run's time: forwards and batches are the same."""
    assert rows["error_control"].abs().max() < 1e-6
    assert rows["error_acceptance"].abs().max() < 1e-6, "the trace is of the same prompts"


def test_time_is_predicted_within_a_factor(rows: pd.DataFrame) -> None:
    """Profiled in a moment on a busy machine: far from what a quiet one allows, far below a loss of fidelity."""
    assert rows["tokens_per_s_error"].abs().median() < 0.35
    assert (rows["tokens_per_s_sim"] / rows["tokens_per_s_real"]).between(1 / 2, 2).all()


def test_the_whole_is_summed_up(small: Small) -> None:
    """Every figure, both batches, and the part of the error that is left: time."""
    result = overall(small.rows, small.prompts)
    assert result["configurations"] == 10
    assert set(result["by_batch"]) == {"1", "4"}
    assert result["figures"]["tokens_per_target_pass"] == {"median": 0, "p95": 0, "bias": 0, "coverage": 1}
    assert result["largest_term"] == "latency"
    assert result["by_batch"]["1"]["kendall_tau"] > 0


def test_every_forward_is_priced_beside_what_it_took(small: Small) -> None:
    """The replay asks for the run's own forwards, so none is without a price, and real times add up to the runs."""
    table, runs = small.forwards, small.observations
    assert (table["simulated_ms"] > 0).all()
    assert table["forwards"].sum() == sum(times for run in runs for times, _ in run.times.values())
    real_ms, simulated_ms = ((table[f"{side}_ms"] * table["forwards"]).sum() for side in ("real", "simulated"))
    assert real_ms == pytest.approx(sum(run.decode_ms for run in runs))
    assert table["time_share"].sum() == pytest.approx(1)
    assert table["error_share"].sum() == pytest.approx(simulated_ms / real_ms - 1)
    assert table["error_share"].abs().is_monotonic_decreasing


def test_prompts_tell_the_error_by_context(small: Small) -> None:
    """Eight prompts in each configuration of one sequence; together they are off by what the latency is."""
    alone = small.rows[small.rows["batch"] == 1]
    assert len(small.prompts) == 8 * len(alone)
    assert small.prompts["context"].between(12, 512).all()
    assert small.prompts["error"].mean() == pytest.approx(alone["error_latency"].mean(), abs=0.05)
    ranges = overall(small.rows, small.prompts)["by_context"]
    assert sum(each["prompts"] for each in ranges) == len(small.prompts)


def test_the_page_holds_all_of_it_and_loads_nothing(small: Small) -> None:
    rows = small.rows
    page = validation_page(rows, small.forwards, overall(rows, small.prompts), {"design": "small.yaml"})
    page = page.replace("\u200b", "")  # where names may be broken
    assert "share of all error" in page
    for figure in ("tokens_per_s", "matched_per_drafted_2", "level_1_ms_per_token"):
        assert all(f"{figure}, {side}" in page for side in ("real", "simulated", "error"))
    assert "tokens_per_target_pass, median error" in page, "a goal"
    assert all(name in page for name in rows["configuration"])
    assert "Validation: small.yaml" in page
    assert page.count("<svg") == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)
