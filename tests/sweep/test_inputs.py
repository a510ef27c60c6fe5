"""What a varied input does to a configuration: prices scaled, acceptance shifted, all else as it was."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hand_made import POLICIES, scenario

from hispec_sim.acceptance.models import Correlated, Independent, LevelAgreement, PerPosition
from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Prompt
from hispec_sim.acceptance.trace_file import save_trace
from hispec_sim.networks import known_networks
from hispec_sim.scenario.load import load_scenario
from hispec_sim.simulate.configuration import Configuration
from hispec_sim.sweep.acceptance_inputs import shifted
from hispec_sim.sweep.candidate import Candidate, Outcome, margin, run
from hispec_sim.sweep.inputs import inputs_of
from hispec_sim.sweep.uncertain import Input
from hispec_sim.sweep.vllm import speculative_config

NAMES = {"autoregressive": "autoregressive", "early exit": "single_layer", "hispec": "hierarchy"}


@pytest.fixture
def candidates(tmp_path: Path) -> dict[str, Candidate]:
    texts = dict(POLICIES)
    texts["early exit"] %= 2
    texts["hispec"] %= (0.7, 0.9)
    return {name: Candidate(NAMES[name], name, scenario(tmp_path, text)) for name, text in texts.items()}


@pytest.fixture
def inputs(candidates: dict[str, Candidate]) -> dict[str, Input]:
    return {found.name: found for found in inputs_of(list(candidates.values()))}


def test_which_inputs_there_are(inputs: dict[str, Input]) -> None:
    """A parameter with a range stands for its own acceptance; the hierarchy's have none, so they get one."""
    assert list(inputs) == [
        "exit_4",
        "acceptance at level 1 of hispec",
        "acceptance at level 2 of hispec",
        "host overhead per forward",
        "times of verifications",
        "jitter, 90 % quantile",
    ]
    for found in inputs.values():
        assert found.low <= found.value <= found.high


def test_an_input_at_its_value_changes_nothing(inputs: dict[str, Input], candidates: dict[str, Candidate]) -> None:
    for candidate in candidates.values():
        before = run(candidate.configuration(), "tokens_per_s", range(2))
        for found in inputs.values():
            changed = found.change(candidate, found.value)
            assert changed is None or run(changed, "tokens_per_s", range(2)) == before


def test_verifications_scale_alone(inputs: dict[str, Input], candidates: dict[str, Candidate]) -> None:
    """Twice the time of a verification adds exactly the time that verifications took; drafts cost what they did."""
    change = inputs["times of verifications"].change
    assert change(candidates["autoregressive"], 2.0) is None
    changed = change(candidates["early exit"], 2.0)
    assert changed is not None
    cost, scaled = (c.costs["llama-3.1-8b"] for c in (candidates["early exit"].configuration(), changed))
    forward = {"first_layer": 4, "last_layer": 32, "batch": 1, "context": np.array([600])}
    assert scaled.forward_ms(tokens=3, logits=3, **forward) == 2 * cost.forward_ms(tokens=3, logits=3, **forward)
    assert scaled.forward_ms(tokens=1, logits=1, **forward) == cost.forward_ms(tokens=1, logits=1, **forward)


def test_host_overhead_is_paid_per_forward(inputs: dict[str, Input], candidates: dict[str, Candidate]) -> None:
    """Autoregressive decoding makes one forward a token: a millisecond more each is a millisecond per token more."""
    changed = inputs["host overhead per forward"].change(candidates["autoregressive"], 1.0)
    assert changed is not None
    before, after = (run(c, "tpot_ms", range(1)) for c in (candidates["autoregressive"].configuration(), changed))
    assert after.tpot_ms[0] - before.tpot_ms[0] == pytest.approx(1.0)
    assert after.scores[0] < before.scores[0]


def test_acceptance_moves_one_policy(inputs: dict[str, Input], candidates: dict[str, Candidate]) -> None:
    found = inputs["acceptance at level 2 of hispec"]
    assert found.change(candidates["early exit"], 0.8) is None
    changed = found.change(candidates["hispec"], 0.8)
    assert isinstance(changed, Configuration)
    assert isinstance(changed.outcomes, Correlated)
    assert changed.outcomes.agreement[1].if_agreed == pytest.approx(0.8)
    assert changed.outcomes.agreement[0].if_agreed == 0.7


def test_shift_in_log_odds() -> None:
    """Log-odds of .5 are 0, so a shift by log 3 makes .75; certain acceptance stays certain."""
    assert shifted(Independent((0.5, 0.5)), 2, math.log(3)) == Independent((0.5, 0.75))
    moved = shifted(PerPosition(((0.5, 1.0, 0.0),)), 1, math.log(3))
    assert moved == PerPosition(((0.75, 1.0, 0.0),))
    pair = LevelAgreement(0.5, 0.25, 0.4)
    correlated = shifted(Correlated((pair, pair)), 1, math.log(3))
    assert isinstance(correlated, Correlated)
    assert correlated.agreement == (LevelAgreement(0.75, 0.5, 0.4), pair)


def test_margin_over_prompts_of_a_replay() -> None:
    """Repetitions of a replay are alike, prompts are not: the ratio is the scores', its width the prompts'."""
    fast = Outcome((200.0,) * 3, (5.0,) * 3, (200.0,) * 3, (300.0, 100.0, 220.0), replayed=True)
    slow = Outcome((100.0,) * 3, (10.0,) * 3, (100.0,) * 3, (100.0, 100.0, 100.0, 100.0), replayed=False)
    found = margin(fast, slow)
    assert found.ratio == pytest.approx(2.0)
    assert found.high / found.low > 5
    assert found.ratio == pytest.approx(math.sqrt(found.low * found.high))
    drawn = margin(Outcome((220.0, 180.0), (1, 1), (220.0, 180.0), (1.0,), replayed=False), Outcome(
        (110.0, 90.0), (1, 1), (110.0, 90.0), (1.0,), replayed=False))  # fmt: skip
    assert drawn.low == pytest.approx(2.0)
    assert drawn.high == pytest.approx(2.0)


def test_recorded_acceptance_is_varied_by_level(tmp_path: Path) -> None:
    """With a trace, inputs are its levels' agreement, times, host overhead and jitter; margins are over prompts."""
    rng = np.random.default_rng(0)
    agree = np.repeat(np.linspace(0.9, 0.4, 6), 40)
    labels = np.column_stack([rng.random(240) > agree, np.zeros(240)]).astype(np.uint8)
    llama = known_networks()["llama-3.1-8b"]
    trace = AgreementTrace(
        (llama,), (Exit(llama.name, 4), Exit(llama.name, 32)), labels, np.arange(7, dtype=np.int64) * 40,
        tuple(Prompt(f"{i}", f"{i}", "", 4) for i in range(6)), OffPath.none(2, sampled=False), None, {},
    )  # fmt: skip
    save_trace(trace, tmp_path / "texts.trace")
    text = """{name: exit, bonus: always, levels: [{network: llama-3.1-8b, exit_layer: 4, draft_length: 2},
      {network: llama-3.1-8b}], acceptance: {trace: texts.trace}}"""
    replayed = Candidate("single_layer", "e", scenario(tmp_path, text))
    alone = Candidate("autoregressive", "a", scenario(tmp_path, POLICIES["autoregressive"]))
    inputs = list(inputs_of([alone, replayed]))
    agreement = "agreement of level 0 (llama-3.1-8b@4) with the target"
    times = ["host overhead per forward", "times of verifications", "jitter, 90 % quantile"]
    assert [found.name for found in inputs] == [agreement, *times]  # exit_4 stands in the file, and nothing reads it
    varied = inputs[0]
    assert varied.value == (labels[:, 0] == 0).mean()
    assert varied.change(alone, 0.5) is None
    speeds = []
    for agreed in (varied.low, varied.value, varied.high):
        changed = varied.change(replayed, agreed)
        assert changed is not None
        speeds.append(run(changed, "tokens_per_s", range(1)).score)
    assert speeds[0] < 0.95 * speeds[1] < speeds[1] < 0.95 * speeds[2]
    assert speeds[1] == run(replayed.configuration(), "tokens_per_s", range(1)).score
    outcomes = [run(candidate.configuration(), "tokens_per_s", range(2)) for candidate in (replayed, alone)]
    assert outcomes[0].scores[0] == outcomes[0].scores[1]
    assert margin(*outcomes).high > 1.02 * margin(*outcomes).ratio


def test_vllm_serves_a_whole_draft_only(tmp_path: Path, candidates: dict[str, Candidate]) -> None:
    assert speculative_config(candidates["early exit"]) is None
    assert speculative_config(candidates["hispec"]) is None
    text = """{name: draft, bonus: always, levels: [
      {network: llama-3.1-8b, exit_layer: 4, draft_length: 5}, {network: llama-3.1-8b}],
    acceptance: {model: independent, accept: [0.6]}}"""
    loaded = scenario(tmp_path, text)
    path = loaded.source.path
    path.write_text(
        path.read_text()
        .replace("networks:\n", "networks:\n  small: {roofline: {network: llama-3.2-1b, device: h100_sxm}}\n")
        .replace("network: llama-3.1-8b, exit_layer: 4", "network: small")
    )
    assert speculative_config(Candidate("single_layer", "", load_scenario(path))) == {
        "method": "draft_model",
        "model": "small",
        "num_speculative_tokens": 5,
    }
