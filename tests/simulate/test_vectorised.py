"""The vectorised evaluator against the SimPy engine, which is the truth."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from random_configurations import COSTS, random_cascade, random_configurations, random_model

from hispec_sim.acceptance.models import Correlated, Independent, LevelAgreement
from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.closed_forms import leviathan_tokens_per_round
from hispec_sim.errors import InputError
from hispec_sim.scenario.build import build_costs, build_policies
from hispec_sim.scenario.load import load_scenario
from hispec_sim.simulate.configuration import Configuration, simulate
from hispec_sim.simulate.metrics import RunMetrics, measure
from hispec_sim.simulate.vectorised import evaluate, supports
from hispec_sim.spread import Spread
from hispec_sim.study.run import configuration_of

COUNTED = ("committed_tokens", "tokens_per_target_pass", "matched_per_drafted", "forwards_per_round")
TIMED = ("duration_ms", "tokens_per_s", "tpot_ms", "time_share")
HISPEC = Cascade((Level("big", 4), Level("big", 8, 3), Level("big", 24, 6)), Bonus.ON_MISMATCH)
MODEL = Correlated((LevelAgreement(0.75, 0.75, 0.7), LevelAgreement(0.95, 0.7, 1.0)))


def assert_same(found: RunMetrics, truth: RunMetrics) -> None:
    """Counts are equal, times up to rounding."""
    assert {f.name for f in fields(RunMetrics)} == {*COUNTED, *TIMED}
    for name in COUNTED:
        np.testing.assert_array_equal(getattr(found, name), getattr(truth, name), name)
    for name in TIMED:
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), rtol=1e-12, err_msg=name)


def test_500_random_configurations_equal_the_engine() -> None:
    """Forwards by level, matched and committed tokens, milliseconds: with outcomes drawn and with outcomes replayed."""
    configurations = random_configurations(seed=1, modelled=280, replayed=220, most_tokens=60)
    for found, configuration in zip(evaluate(configurations), configurations, strict=True):
        assert_same(found, measure(simulate(configuration)))


@pytest.mark.slow
def test_many_more_random_configurations_equal_the_engine() -> None:
    for seed in range(2, 12):
        configurations = random_configurations(seed, modelled=280, replayed=220, most_tokens=400)
        for found, configuration in zip(evaluate(configurations), configurations, strict=True):
            assert_same(found, measure(simulate(configuration)))


def test_long_requests_draw_on_as_the_engine_does() -> None:
    """Beyond the numbers that a stream draws at once, and beyond the rows that were first priced."""
    configuration = Configuration(HISPEC, replace(MODEL, clustering=0.5), COSTS, 100, 9000, seed=3)
    assert_same(evaluate([configuration])[0], measure(simulate(configuration)))


def test_measured_profiles_give_the_engine_s_figures() -> None:
    """A shipped scenario, at one sequence at a time."""
    overrides = ["workload.concurrency=1", "workload.requests=3", "device.jitter=none"]
    loaded = load_scenario(Path("scenarios/quick.yaml"), overrides)
    costs = build_costs(loaded)
    policies = build_policies(loaded, {name: cost.profile.network.n_layers for name, cost in costs.items()})
    configurations = [configuration_of(loaded.scenario, policy, costs, 2) for policy in policies]
    assert max(len(configuration.cascade.levels) for configuration in configurations) == 3
    for found, configuration in zip(evaluate(configurations), configurations, strict=True):
        assert_same(found, measure(simulate(configuration)))


def test_figures_do_not_depend_on_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, together, in another order, and in small portions: the same to the last bit."""
    configurations = random_configurations(seed=20, modelled=20, replayed=10, most_tokens=80)
    together = evaluate(configurations)
    assert repr([evaluate([configuration])[0] for configuration in configurations]) == repr(together)
    assert repr(evaluate(configurations[::-1])[::-1]) == repr(together)
    monkeypatch.setattr("hispec_sim.simulate.vectorised.evaluator._LANES", 7)
    assert repr(evaluate(configurations)) == repr(together)


def test_no_configuration_is_no_work() -> None:
    assert evaluate([]) == []


def test_drafted_tokens_per_target_pass_follow_the_closed_form() -> None:
    """(1 - a^(g+1)) / (1 - a), Leviathan et al. 2023; each repetition meets its own luck."""
    accept, draft_length = 0.8, 4
    cascade = Cascade((Level("draft", 4), Level("big", 24, draft_length)), Bonus.ALWAYS)
    first = Configuration(cascade, Independent((accept,)), COSTS, 10, 1000)
    found = evaluate([replace(first, repetition=repetition) for repetition in range(200)])
    values = np.array([metrics.tokens_per_target_pass for metrics in found])
    assert len(set(values)) > 20
    expected = leviathan_tokens_per_round(accept, draft_length)
    # The last round of a request is cut by its length: at most one round in some 300, so 0.2 % less.
    assert expected * 0.998 < values.mean() + 4 * values.std() / np.sqrt(len(values))
    assert values.mean() - 4 * values.std() / np.sqrt(len(values)) < expected


def test_other_luck_lies_within_the_interval() -> None:
    """Both engines with seeds of their own: means of 60 repetitions differ by less than four standard errors."""
    rng = np.random.default_rng(5)
    for _ in range(4):
        cascade = random_cascade(rng)
        first = Configuration(cascade, random_model(rng, len(cascade.levels)), COSTS, 20, 150, seed=1)
        fast = evaluate([replace(first, repetition=repetition) for repetition in range(60)])
        slow = [measure(simulate(replace(first, seed=2, repetition=repetition))) for repetition in range(60)]
        ours, theirs = (np.array([metrics.tokens_per_s for metrics in runs]) for runs in (fast, slow))
        error = np.sqrt((ours.var() + theirs.var()) / 60)
        assert abs(ours.mean() - theirs.mean()) <= 4 * error + 1e-12 * ours.mean()


def test_what_is_not_supported_is_named() -> None:
    """Sequences that share the device, and jitter: the engine's work, and nothing is silently left out."""
    plain = Configuration(HISPEC, MODEL, COSTS, 10, 20, requests=4)
    assert supports(plain) is None
    assert supports(replace(plain, jitter={"big": None})) is None
    assert supports(replace(plain, requests=1, concurrency=8)) is None
    shared, jittery = replace(plain, concurrency=2), replace(plain, jitter={"big": Spread(0.9, 1.2)})
    assert "concurrency 2" in str(supports(shared))
    assert "jitter" in str(supports(jittery))
    with pytest.raises(InputError, match="configuration 1 needs the SimPy engine: concurrency 2"):
        evaluate([plain, shared])


def test_configurations_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="3 levels, what its outcomes come from describes 2"):
        Configuration(HISPEC, Independent((0.5,)), COSTS, 10, 20)
    with pytest.raises(InputError, match="no costs are given for network big"):
        Configuration(HISPEC, MODEL, {"draft": COSTS["draft"]}, 10, 20)
    with pytest.raises(InputError, match="output_tokens of a configuration must be at least 1, got 0"):
        Configuration(HISPEC, MODEL, COSTS, 10, 0)
    with pytest.raises(InputError, match="repetition of a configuration must be at least 0, got -1"):
        Configuration(HISPEC, MODEL, COSTS, 10, 20, repetition=-1)
