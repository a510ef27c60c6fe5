"""Rates that papers print, converted to probabilities, come out again when they are simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hispec_sim.acceptance.models import Independent
from hispec_sim.cascade import Bonus
from hispec_sim.errors import InputError
from hispec_sim.published.bench import Bench, cascade_of, forward_ms, launch_bound_host
from hispec_sim.published.conversion import (
    chain_model,
    matched_per_drafted,
    per_token_from_matched,
    target_accept_from_matched,
)

PROFILES = Path(__file__).parents[2] / "profiles" / "h100_sxm"
NETWORK = "llama-2-7b"


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(PROFILES, tokens=20_000, seed=1)


@pytest.mark.parametrize(("rate", "draft_length"), [(0.689, 12), (0.57, 4), (0.397, 2), (0.9, 1)])
def test_simulated_matched_per_drafted_is_the_rate_it_was_converted_from(
    bench: Bench, rate: float, draft_length: int
) -> None:
    alpha = per_token_from_matched(rate, draft_length)
    run = bench.run(
        cascade_of((NETWORK, 8, 0), (NETWORK, 32, draft_length)), Independent((alpha,)), {NETWORK: bench.cost(NETWORK)}
    )
    assert run.matched_per_drafted[1] == pytest.approx(rate, abs=0.015)
    assert alpha >= rate


@pytest.mark.parametrize("bonus", Bonus)
def test_three_levels_match_the_rate_at_the_target(bench: Bench, bonus: Bonus) -> None:
    draft = per_token_from_matched(0.397, 2)
    target = target_accept_from_matched(0.581, draft, 2, 4, bonus)
    cascade = cascade_of((NETWORK, 4, 0), (NETWORK, 8, 2), (NETWORK, 32, 4), bonus=bonus)
    run = bench.run(cascade, chain_model(draft, target), {NETWORK: bench.cost(NETWORK)})
    assert run.matched_per_drafted[2] == pytest.approx(0.581, abs=0.015)


@pytest.mark.parametrize("accept", [0.0, 0.3, 0.9, 1.0])
def test_conversion_is_the_inverse_of_the_closed_form(accept: float) -> None:
    for length in (1, 3, 12):
        rate = matched_per_drafted(accept, np.eye(length + 1)[length])
        assert rate == pytest.approx(sum(accept**i for i in range(1, length + 1)) / length)
        assert per_token_from_matched(rate, length) == pytest.approx(accept, abs=1e-9)


def test_a_chain_keeps_both_marginals() -> None:
    for kappa in (1.0, 0.8):
        model = chain_model(0.5, 0.7, kappa)
        assert model.agreement[0].if_agreed * model.agreement[1].if_agreed == pytest.approx(0.5)
        assert model.acceptance_per_token(2) == pytest.approx(0.7)


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(InputError, match="rise to at most 1"):
        chain_model(0.8, 0.7)
    with pytest.raises(InputError, match="between 0 and 1"):
        per_token_from_matched(1.2, 4)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_host_overhead_makes_decoding_as_slow_as_it_was_calibrated_on(bench: Bench, share: float) -> None:
    host = launch_bound_host(bench.cost(NETWORK), 16.0, forward_share=share, context=1024)
    assert forward_ms(bench.cost(NETWORK, 0, host), 1, context=1024) == pytest.approx(16.0)


def test_a_missing_folder_of_profiles_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--profiles"):
        Bench(tmp_path / "nowhere")
