"""The engine reproduces the closed forms, and the closed forms reproduce what can be worked out by hand.

The random part is one experiment with a stated false-alarm rate: seeds are fixed, so it passes or fails for good, but
had they been drawn anew, a correct simulator would fail it about three times in a thousand.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from math import comb, isclose, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from simulated import HISPEC, LayerCost, Round, cascade, rounds_of, simulate, steps_of

from hispec_sim.acceptance.models import Independent
from hispec_sim.cascade import Bonus, Cascade
from hispec_sim.closed_forms import (
    RoundExpectation,
    expected_round,
    gain_of,
    leviathan_speedup,
    leviathan_tokens_per_round,
    run_until,
    step_spans,
    three_level_ms_per_token,
    two_level_ms_per_token,
)
from hispec_sim.errors import InputError
from hispec_sim.simulate.metrics import measure

COST = LayerCost(per_forward_ms=3.0, per_layer_ms=1.0)
BOTH = (Bonus.ALWAYS, Bonus.ON_MISMATCH)
FALSE_ALARM = 1e-3  # of each of the three assertions about the grid


def step_ms(of: Cascade, cost: LayerCost = COST) -> list[float]:
    """Milliseconds of one step of each level: the price of its spans."""
    return [
        sum(cost.span_ms(span.first_layer, span.last_layer) for span in step_spans(of, k))
        for k in range(len(of.levels))
    ]


@dataclass(frozen=True)
class Point:
    """One cascade with its acceptance. `accept` and `periods` belong to levels 1, 2, ..."""

    accept: tuple[float, ...]
    periods: tuple[int, ...]
    bonus: Bonus
    networks: str = ""

    @property
    def cascade(self) -> Cascade:
        networks = self.networks or "T" * (len(self.accept) + 1)
        exits = range(4, 4 + 5 * len(networks), 5)
        return cascade(*zip(networks, exits, (0, *self.periods), strict=True), bonus=self.bonus)

    @property
    def expected(self) -> RoundExpectation:
        return expected_round(self.cascade, self.accept, step_ms(self.cascade))

    def rounds(self, n_rounds: int, seed: int) -> list[Round]:
        """Simulated rounds that the length limit cannot touch.

        Which rounds count is decided by the room at their start, hence by their past alone: by Wald's identity they
        have the same means as rounds of an endless request.
        """
        length = 2000
        n_requests = int(n_rounds * self.expected.tokens / length) + 1
        if n_requests == 1:
            length = int(n_rounds * self.expected.tokens) + 2 * self.cascade.max_tokens_per_round
        log = simulate(self.cascade, Independent(self.accept), [(1, length)] * n_requests, seed=seed, cost=COST)
        return [done for done in rounds_of(log) if done.room > self.cascade.max_tokens_per_round]


def random_grid() -> list[Point]:
    two = [
        Point((a,), (draft,), bonus, networks)
        for a, draft, bonus in itertools.product((0.2, 0.5, 0.8, 0.95), (1, 2, 5, 16), BOTH)
        for networks in (("TT", "DT")[draft == 2],)
    ]
    three = [
        Point(accept, (draft, period), bonus, ("TTT", "DTT", "TDT", "DMT")[i % 4])
        for i, (accept, (draft, period), bonus) in enumerate(
            itertools.product(
                ((0.3, 0.6), (0.7, 0.9), (0.9, 0.5)), ((1, 1), (1, 16), (2, 4), (3, 5), (6, 8), (16, 16)), BOTH
            )
        )
    ]
    four = [
        Point(accept, periods, bonus, ("TTTT", "DTTT", "DTDT", "TDTT")[i % 4])
        for i, (accept, periods, bonus) in enumerate(
            itertools.product(((0.5, 0.7, 0.9), (0.8, 0.8, 0.6)), ((1, 3, 7), (2, 4, 9), (5, 2, 3), (4, 8, 16)), BOTH)
        )
    ]
    return two + three + four


@cache
def z_scores() -> tuple[list[float], list[float]]:
    """Deviations from the closed forms in standard errors: of the tokens per round, and of all the rest.

    Rounds are independent, so that the standard error of their mean is their deviation over the root of their
    number. Where nothing varies the mean must be exact: the draft steps of a two-level round, for one, or what a
    draft of one token without bonus gains.
    """
    tokens: list[float] = []
    rest: list[float] = []
    for seed, point in enumerate(random_grid()):
        expected, done = point.expected, point.rounds(600, seed)
        n_levels = len(expected.steps)
        sample = np.array([(each.committed, each.ms, *steps_of(each, n_levels)) for each in done], np.float64)
        means = (expected.tokens, expected.ms, *expected.steps)
        for i, (column, mean) in enumerate(zip(sample.T, means, strict=True)):
            if np.ptp(column) == 0:
                assert isclose(column[0], mean, rel_tol=1e-12), point
            else:
                score = (column.mean() - mean) / (column.std(ddof=1) / sqrt(len(column)))
                (rest if i else tokens).append(float(score))
    return tokens, rest


def test_the_engine_agrees_with_the_closed_forms_on_a_grid() -> None:
    tokens, rest = z_scores()
    scores = tokens + rest
    bound = NormalDist().inv_cdf(1 - FALSE_ALARM / 2 / len(scores))  # Bonferroni
    assert len(tokens) > 70
    assert len(rest) > 100
    assert max(map(abs, scores)) < bound


def test_about_95_percent_of_the_grid_lie_within_their_95_percent_intervals() -> None:
    tokens, _ = z_scores()  # one per point, hence independent
    outside = sum(abs(score) > 1.96 for score in tokens)
    n = len(tokens)

    def at_most(most: int) -> float:
        return sum(comb(n, i) * 0.05**i * 0.95 ** (n - i) for i in range(most + 1))

    assert at_most(outside - 1) < 1 - FALSE_ALARM  # not more misses than chance explains
    assert abs(sum(score**2 for score in tokens) / n - 1) < 3.3 * sqrt(2 / n)  # and the intervals are not too wide


@pytest.mark.parametrize("bonus", BOTH)
@pytest.mark.parametrize(
    ("networks", "periods"),
    [("TT", (1,)), ("DT", (16,)), ("TTT", (1, 1)), ("TTT", (2, 4)), ("DTT", (3, 16)), ("TTTT", (2, 5, 11))],
)
def test_with_certain_acceptance_every_round_is_exact(networks: str, periods: tuple[int, ...], bonus: Bonus) -> None:
    for accept in itertools.product((0.0, 1.0), repeat=len(periods)):
        point = Point(accept, periods, bonus, networks)
        expected = point.expected
        rounds = point.rounds(8, seed=0)
        assert len(rounds) > 2
        for done in rounds:
            assert (done.committed, done.ms) == (expected.tokens, expected.ms)
            assert tuple(steps_of(done, len(expected.steps))) == expected.steps


def test_autoregressive_decoding_is_one_token_a_round() -> None:
    alone = cascade(("T", 32, 0))
    assert expected_round(alone, (), (7.0,)) == RoundExpectation(tokens=1.0, steps=(1.0,), ms=7.0)
    metrics = measure(simulate(alone, Independent(()), [(5, 100)], seed=0, cost=LayerCost()))
    assert (metrics.tokens_per_target_pass, metrics.tpot_ms) == (1.0, 32.0)


@pytest.mark.parametrize("bonus", BOTH)
def test_reported_throughput_is_the_closed_form(bonus: Bonus) -> None:
    decoded_with, accept = cascade(*HISPEC, bonus=bonus), (0.7, 0.9)
    log = simulate(decoded_with, Independent(accept), [(10, 4000)] * 5, seed=1, cost=COST)
    metrics, expected = measure(log), expected_round(decoded_with, accept, step_ms(decoded_with))
    rounds = rounds_of(log)
    spread = np.std([done.ms - expected.ms_per_token * done.committed for done in rounds]) / expected.tokens
    tolerance_ms = 3 * float(spread) / sqrt(len(rounds))
    assert metrics.tpot_ms == pytest.approx(expected.ms_per_token, abs=tolerance_ms)
    assert metrics.tokens_per_s == pytest.approx(1000 / metrics.tpot_ms)
    assert tolerance_ms < 0.02 * metrics.tpot_ms  # the comparison has teeth


@pytest.mark.parametrize("bonus", BOTH)
@pytest.mark.parametrize("networks", ["TT", "DT", "TTT", "DTT", "TDT", "DTDT", "TDTD", "TDDT"])
def test_steps_run_the_spans_that_theory_says(networks: str, bonus: Bonus) -> None:
    n_levels = len(networks)
    point = Point((0.6,) * (n_levels - 1), (2, 3, 7)[: n_levels - 1], bonus, networks)
    for done in point.rounds(100, seed=3):
        spans: list[tuple[str, int, int]] = []
        for move in done.moves:
            forward = move.source.forward
            spans.append((forward.network, forward.first_layer, forward.last_layer))
            if move.matched >= 0:
                assert tuple(spans) == step_spans(point.cascade, move.source.level)
                spans = []


def test_leviathan_at_the_ends_and_in_between() -> None:
    assert leviathan_tokens_per_round(0.0, 5) == 1.0
    assert leviathan_tokens_per_round(1.0, 5) == 6.0
    assert leviathan_tokens_per_round(0.0, 5, Bonus.ON_MISMATCH) == 1.0
    assert leviathan_tokens_per_round(1.0, 5, Bonus.ON_MISMATCH) == 5.0
    assert leviathan_tokens_per_round(1 - 1e-15, 5) == pytest.approx(6.0)
    for alpha, gamma in itertools.product((0.01, 0.3, 0.8, 0.99), (1, 2, 7, 16)):
        assert leviathan_tokens_per_round(alpha, gamma) == pytest.approx((1 - alpha ** (gamma + 1)) / (1 - alpha))
    # Leviathan et al., table 1: the operations and speed of (alpha, gamma) at negligible draft cost.
    table = {(0.6, 2): 1.96, (0.7, 3): 2.53, (0.8, 2): 2.44, (0.8, 5): 3.69, (0.9, 2): 2.71, (0.9, 10): 6.86}
    for (alpha, gamma), speed in table.items():
        assert leviathan_speedup(alpha, gamma, 0.0) == pytest.approx(speed, abs=0.005)


@pytest.mark.parametrize("bonus", BOTH)
def test_two_and_three_level_formulas_are_the_recursion(bonus: Bonus) -> None:
    for a1, a2, draft, period in itertools.product((0.0, 0.4, 0.9, 1.0), (0.0, 0.7, 1.0), (1, 2, 9), (1, 4, 16)):
        two = cascade(("D", 2, 0), ("T", 9, draft), bonus=bonus)
        assert two_level_ms_per_token(a1, draft, 2.0, 9.0, bonus) == pytest.approx(
            expected_round(two, (a1,), (2.0, 9.0)).ms_per_token
        )
        speedup = 9.0 / two_level_ms_per_token(a1, draft, 2.0, 9.0, bonus)
        assert leviathan_speedup(a1, draft, 2.0 / 9.0, bonus) == pytest.approx(speedup)
        three = cascade(("D", 2, 0), ("T", 4, draft), ("T", 9, period), bonus=bonus)
        assert three_level_ms_per_token((a1, a2), draft, period, (2.0, 4.0, 9.0), bonus) == pytest.approx(
            expected_round(three, (a1, a2), (2.0, 4.0, 9.0)).ms_per_token
        )


@pytest.mark.parametrize("bonus", BOTH)
def test_wald_and_total_probability(bonus: Bonus) -> None:
    gain = np.array([0.0, 1.0])
    for accept, period in ((0.6, 3), (0.9, 8), (0.2, 5), (0.5, 1)):
        run = run_until(gain, period)
        mean_gain = gain @ np.arange(len(gain))
        assert run.tokens.sum() == pytest.approx(1.0)
        assert run.tokens @ np.arange(len(run.tokens)) == pytest.approx(run.expected_gains * mean_gain)
        gain = gain_of(run.tokens, accept, bonus)
        assert gain.sum() == pytest.approx(1.0)


def test_the_worked_example_of_the_theory_page() -> None:
    of = cascade(("T", 4, 0), ("T", 8, 2), ("T", 32, 4))
    half = LayerCost(per_layer_ms=0.5)
    assert step_ms(of, half) == [2.0, 2.0, 12.0]
    expected = expected_round(of, (0.5, 0.8), step_ms(of, half))
    assert expected.steps == (5.75, 2.875, 1.0)
    assert expected.tokens == pytest.approx(3.08)
    assert expected.ms == 29.25
    assert expected.ms_per_token == pytest.approx(9.497, abs=5e-4)
    assert 16 / expected.ms_per_token == pytest.approx(1.685, abs=5e-4)

    of = cascade(*HISPEC, bonus=Bonus.ALWAYS)
    assert step_ms(of, half) == [2.0, 4.0, 16.0]
    expected = expected_round(of, (0.5, 0.8), step_ms(of, half))
    assert expected.tokens == pytest.approx(3.546, abs=5e-4)
    assert expected.ms == 37.0
    assert expected.ms_per_token == pytest.approx(10.435, abs=5e-4)


def test_invalid_input_is_refused() -> None:
    three = cascade(*HISPEC)
    with pytest.raises(InputError, match="2 values of accept"):
        expected_round(three, (0.5,), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="3 values of step_ms"):
        expected_round(three, (0.5, 0.5), (1.0, 1.0))
    with pytest.raises(InputError, match="probability"):
        expected_round(three, (0.5, 1.5), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="finite"):
        expected_round(three, (0.5, 0.5), (1.0, 1.0, -1.0))
    with pytest.raises(InputError, match="draft_length"):
        leviathan_tokens_per_round(0.5, 0)
    with pytest.raises(InputError, match="alpha"):
        leviathan_speedup(float("nan"), 2, 0.1)
    with pytest.raises(InputError, match="cost_ratio"):
        leviathan_speedup(0.5, 2, float("inf"))
