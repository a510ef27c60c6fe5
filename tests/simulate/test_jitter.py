"""Latency jitter: the quantiles that were measured come out again, around an unchanged median."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from hispec_sim.scenario.load import load_scenario
from hispec_sim.simulate.jitter import jitter_factors, mean_factor
from hispec_sim.spread import Spread
from hispec_sim.study.study import Study

QUICK = Path(__file__).parents[2] / "scenarios/quick.yaml"
SMALL = [
    "repetitions=4",
    "workload.requests=4",
    "workload.output_tokens=64",
    "parameters.host_per_forward_ms.value=0.0",
]


def test_factors_have_the_given_quantiles() -> None:
    """10 %, 50 % and 90 %, with each side as wide as was measured."""
    factors = list(islice(jitter_factors(Spread(0.95, 1.3), np.random.default_rng(1)), 200_000))
    np.testing.assert_allclose(np.quantile(factors, [0.1, 0.5, 0.9]), [0.95, 1.0, 1.3], rtol=0.005)


def test_no_quantiles_no_jitter() -> None:
    """The imported GPU profiles give one number per point: time is then exact."""
    assert set(islice(jitter_factors(None, np.random.default_rng(1)), 100)) == {1.0}
    summary = Study(load_scenario(QUICK, SMALL)).run().summary
    autoregressive = summary.policies[0].tokens_per_s
    assert autoregressive.low == autoregressive.median == autoregressive.high


def test_jitter_spreads_time_but_not_outcomes() -> None:
    """The same tokens are accepted; forwards take longer on average when lateness outweighs earliness."""
    calm = Study(load_scenario(QUICK, SMALL)).run()
    shaky = Study(load_scenario(QUICK, [*SMALL, "device.jitter={p10: 0.9, p90: 1.5}"])).run()
    for before, after in zip(calm.summary.policies, shaky.summary.policies, strict=True):
        assert after.tokens_per_target_pass == pytest.approx(before.tokens_per_target_pass, rel=0.1)
        assert after.tokens_per_s.median < before.tokens_per_s.median
        assert after.tokens_per_s.low < after.tokens_per_s.high
    one, other = (study.tables["steps"].query("policy == 'autoregressive'") for study in (calm, shaky))
    assert (one["committed"].to_numpy() == other["committed"].to_numpy()).all()
    ratio = other["duration_ms"].to_numpy() / one["duration_ms"].to_numpy()
    assert np.quantile(ratio, 0.9) > 1.2


def test_the_mean_factor_is_the_mean_of_many() -> None:
    quantiles = Spread(0.9, 1.4)
    drawn = list(islice(jitter_factors(quantiles, np.random.default_rng(3)), 200_000))
    assert mean_factor(quantiles) == pytest.approx(np.mean(drawn), rel=2e-3)
    assert mean_factor(quantiles) > 1.05
    assert mean_factor(None) == 1


def test_a_measured_mean_counts_for_more_than_the_quantiles_tell() -> None:
    """Times of two kinds, fast and slow: the mean is not where two lognormal halves would have it."""
    spread = Spread(0.8, 1.1, mean=0.99)
    drawn = list(islice(jitter_factors(spread, np.random.default_rng(3)), 200_000))
    assert np.mean(drawn) == pytest.approx(0.99, rel=1e-3)
    assert np.quantile(drawn, 0.9) / np.quantile(drawn, 0.1) == pytest.approx(1.1 / 0.8, rel=0.01)
    assert mean_factor(spread) == 0.99
    assert mean_factor(Spread(0.8, 1.1)) < 0.975
