"""The interval of a scenario's rate: only where trace and profile tell it, and as wide as they say."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Prompt
from hispec_sim.acceptance.trace_file import save_trace
from hispec_sim.latency.profile import LatencyProfile
from hispec_sim.latency.profile_file import read_profile, write_profile
from hispec_sim.networks import known_networks
from hispec_sim.report.summary import PolicySummary, Summary
from hispec_sim.report.tables import summary_view
from hispec_sim.scenario.load import load_scenario
from hispec_sim.study.study import Study
from hispec_sim.study.uncertainty import profile_error, sampling_error

PROFILE = Path(__file__).parents[2] / "profiles/h100_sxm/llama-3.1-8b.csv"
LLAMA = known_networks()["llama-3.1-8b"]
SCENARIO = """
name: traced
seed: 1
repetitions: 2
networks: {big: {profile: profile.csv}}
workload: {concurrency: 1, requests: 12, prompt_tokens: 256, output_tokens: 40}
policies:
  - {name: alone, levels: [{network: big}]}
  - name: exit
    levels: [{network: big, exit_layer: 8, draft_length: 3}, {network: big}]
    acceptance: {trace: texts.trace}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scenario on a trace of 12 texts, the exit agreeing less from text to text."""
    rng = np.random.default_rng(0)
    agree = np.repeat(np.linspace(0.9, 0.4, 12), 40)
    labels = np.column_stack([rng.random(480) > agree, np.zeros(480)]).astype(np.uint8)
    starts = np.arange(13, dtype=np.int64) * 40
    prompts = tuple(Prompt(f"{i}", f"{i}", "", 4) for i in range(12))
    exits = (Exit(LLAMA.name, 8), Exit(LLAMA.name, 32))
    trace = AgreementTrace((LLAMA,), exits, labels, starts, prompts, OffPath.none(2, sampled=False), None, {})
    save_trace(trace, tmp_path / "texts.trace")
    (tmp_path / "traced.yaml").write_text(SCENARIO)
    return tmp_path


def spread(profile: LatencyProfile, factor: float) -> LatencyProfile:
    """The profile with quantiles that far from every median."""
    rows = [
        replace(row, p10_ms=row.ms / factor, p90_ms=row.ms * factor, repeats=9, origin="measured")
        for row in profile.rows
        if row.tensor_parallel == 1
    ]
    return replace(profile, rows=tuple(rows))


def policies(folder: Path, *overrides: str) -> dict[str, PolicySummary]:
    summary = Study(load_scenario(folder / "traced.yaml", list(overrides))).run().summary
    return {policy.name: policy for policy in summary.policies}


def test_an_interval_where_trace_and_profile_tell_it(folder: Path) -> None:
    """The policy with a trace has one, around its median and wider than over repetitions; the target alone has that of
    the profile, and the repetitions'."""
    write_profile(spread(read_profile(PROFILE), 1.02), folder / "profile.csv")
    found = policies(folder)
    alone, error = found["alone"], profile_error(read_profile(folder / "profile.csv"))
    assert alone.tokens_per_s_predicted is not None
    assert alone.tokens_per_s_predicted[1] / alone.tokens_per_s.median >= math.exp(1.95 * error)
    assert alone.tokens_per_target_pass_predicted is None
    per_pass = found["exit"].tokens_per_target_pass_predicted
    assert per_pass is not None
    assert per_pass[0] < found["exit"].tokens_per_target_pass < per_pass[1]
    assert found["exit"].tokens_per_s_predicted is not None
    low, high = found["exit"].tokens_per_s_predicted
    rate = found["exit"].tokens_per_s
    assert low < rate.low <= rate.median <= rate.high < high
    write_profile(spread(read_profile(PROFILE), 1.3), folder / "wide.csv")
    wider = policies(folder, "networks.big.profile=wide.csv")["exit"].tokens_per_s_predicted
    assert wider is not None
    assert wider[0] < low < high < wider[1]


def test_the_terminal_says_how_sure_that_is(folder: Path) -> None:
    """The ends as they stand in the summary; nothing of it where neither trace nor profile tells anything."""
    write_profile(spread(read_profile(PROFILE), 1.02), folder / "profile.csv")

    def shown(*overrides: str) -> tuple[Summary, str]:
        summary = Study(load_scenario(folder / "traced.yaml", list(overrides))).run().summary
        console = Console(width=160, record=True, file=io.StringIO())
        console.print(summary_view(summary))
        return summary, console.export_text()

    summary, text = shown()
    policy = summary.policies[1]
    assert policy.tokens_per_s_predicted is not None
    assert policy.tokens_per_target_pass_predicted is not None
    assert "how sure that is" in text
    assert "{:.1f} to {:.1f}".format(*policy.tokens_per_s_predicted) in text
    assert "{:.2f} to {:.2f}".format(*policy.tokens_per_target_pass_predicted) in text
    write_profile(read_profile(PROFILE), folder / "bare.csv")
    assumed = ("policies.exit.acceptance={model: independent, accept: [0.5]}", "networks.big.profile=bare.csv")
    assert "how sure that is" not in shown(*assumed)[1]


def test_no_interval_without_quantiles(folder: Path) -> None:
    write_profile(read_profile(PROFILE), folder / "profile.csv")
    found = policies(folder)
    assert found["exit"].tokens_per_s_predicted is found["alone"].tokens_per_s_predicted is None
    assert found["exit"].tokens_per_target_pass_predicted is not None, "which no profile has a part in"


def test_repeated_runs_count_in_full() -> None:
    """Ten per cent between the quantiles and the median is .078 of a standard deviation, beside interpolation."""
    plain = read_profile(PROFILE)
    interpolation = profile_error(plain)
    assert 0 < interpolation < 0.05
    expected = math.hypot(profile_error(spread(plain, 1 + 1e-9)), math.log(1.1) / 1.2815515655446004)
    assert profile_error(spread(plain, 1.1)) == pytest.approx(expected, rel=1e-3)


def test_what_a_self_check_was_off_by_counts_in_place_of_both() -> None:
    profile = spread(read_profile(PROFILE), 1.1)
    checked = replace(profile, provenance=replace(profile.provenance, decode_error=0.031))
    assert profile_error(checked) == 0.031


def test_sampling_error_by_hand() -> None:
    """Groups of 1, 2 and 3: a standard deviation of 1 over the root of 3, relative to 2; and 4.303 of three values are
    as far as 1.96 of many."""
    assert sampling_error([[1.0], [2.5, 1.5], [3.0]]) == pytest.approx(1 / math.sqrt(3) / 2 * 4.303 / 1.96, rel=1e-4)
    assert math.isnan(sampling_error([[1.0, 2.0]]))
