"""The closed form against the theory, the simulator and corners that can be worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hispec_sim.cascade import Bonus
from hispec_sim.closed_forms import expected_round, two_level_ms_per_token
from hispec_sim.errors import InputError
from hispec_sim.hierarchy.agreement import agreement
from hispec_sim.hierarchy.prices import Ratios
from hispec_sim.hierarchy.rounds import hispec_ms_per_token, hispec_rounds, single_ms_per_token
from hispec_sim.hierarchy.tuned import LONGEST_DRAFT, Way, compare
from hispec_sim.simulate.vectorised import Configuration, evaluate

NETWORK, EXITS, N_LAYERS = "n", (4, 8), 32
shares = st.floats(0.02, 1.0)
lengths = st.integers(1, 6)
bonuses = st.sampled_from(list(Bonus))


@given(shares, shares, st.floats(1.0, 50.0))
def test_agreement_keeps_what_is_known(one: float, other: float, odds_ratio: float) -> None:
    """Both marginals come out again, and the odds ratio where there are odds."""
    draft, middle = sorted((one, other))
    found = agreement(draft, middle, odds_ratio)
    x, p, q = float(found.confirms), float(found.if_confirmed), float(found.if_replaced)
    assert x * p == pytest.approx(draft)
    assert x * p + (1 - x) * q == pytest.approx(middle)
    assert p * (1 - q) == pytest.approx(odds_ratio * q * (1 - p), abs=1e-12)


def test_impossible_agreement_is_refused() -> None:
    for draft, middle, odds_ratio in ((0.6, 0.5, 2.0), (0.0, 0.5, 2.0), (0.5, 1.1, 2.0), (0.5, float("nan"), 2.0)):
        with pytest.raises(InputError, match="agreement"):
            agreement(draft, middle, odds_ratio)
    for odds_ratio in (0.5, float("nan")):
        with pytest.raises(InputError, match="odds_ratio"):
            agreement(0.5, 0.6, odds_ratio)
    with pytest.raises(InputError, match="middle"):
        Ratios(0.5, 0.4)
    with pytest.raises(InputError, match="verify_slope"):
        Ratios(0.1, 0.4, -0.1)


@given(shares, shares, lengths, bonuses)
def test_independent_levels_are_those_of_the_theory(one: float, other: float, length: int, bonus: Bonus) -> None:
    draft, middle = sorted((one, other))
    levels = agreement([draft], [middle], 1.0)
    for each in hispec_rounds(levels, length, bonus, 9):
        cascade = Way(1, length, bonus, each.verify_period).cascade(NETWORK, EXITS, N_LAYERS)
        exact = expected_round(cascade, (float(levels.confirms[0]), middle), (0.0, 0.0, 1.0))
        assert each.tokens[0] == pytest.approx(exact.tokens)
        assert sum(each.visits)[0] == pytest.approx(exact.steps[1])
        assert sum(each.run)[0] == pytest.approx(1)


@given(shares, lengths, bonuses)
def test_single_layer_is_leviathans(accept: float, length: int, bonus: Bonus) -> None:
    """At cost .2 the target verifies for .8, and with bonus `always` for .2 more."""
    verify = 1.0 if bonus is Bonus.ALWAYS else 0.8
    ours = single_ms_per_token(np.array([accept]), Ratios(0.2, 0.5), 1, length, bonus)
    assert ours[0] == pytest.approx(two_level_ms_per_token(accept, length, 0.2, verify, bonus))


@dataclass(frozen=True)
class LayerCost:
    """`Ratios` by layer, as the simulator asks for them."""

    ratios: Ratios

    def forward_ms(  # type: ignore[no-untyped-def]
        self, *, first_layer: int, last_layer: int, tokens: int, logits: int, context: NDArray[np.int64], **_
    ) -> NDArray[np.float64]:
        depths = (0, *EXITS, N_LAYERS)
        first, last = depths.index(first_layer), depths.index(last_layer)
        return np.full(np.shape(context), self.ratios.ms(first, last, tokens, read_out=logits > 0))


def test_simulator_agrees() -> None:
    """Correlated levels, a verify slope, reading out: times and tokens within 2 % of 96,000 simulated tokens."""
    rng = np.random.default_rng(5)
    ratios = Ratios(0.125, 0.3, 0.03, 0.04)
    ways = [Way(1, int(rng.integers(1, 6)), bonus, int(rng.integers(1, 14))) for bonus in Bonus for _ in range(8)]
    levels = [agreement([rng.uniform(0.3, 0.7)], [rng.uniform(0.7, 0.98)], 6.0) for _ in ways]
    runs = evaluate(
        [
            Configuration(
                way.cascade(NETWORK, EXITS, N_LAYERS), each.model((0,)), {NETWORK: LayerCost(ratios)}, 10, 6000, 16
            )
            for way, each in zip(ways, levels, strict=True)
        ]
    )
    for way, each, run in zip(ways, levels, runs, strict=True):
        *_, last = hispec_rounds(each, way.draft_length, way.bonus, way.verify_period)
        assert run.tokens_per_target_pass == pytest.approx(last.tokens[0], rel=0.02)
        ms = hispec_ms_per_token(each, ratios, way.draft_length, way.bonus, way.verify_period)[-1][0]
        assert 1000 / run.tokens_per_s == pytest.approx(ms, rel=0.02)


def test_agreement_everywhere() -> None:
    """All tokens match: the longest draft is the best, and a middle exit only costs."""
    found = compare(agreement([1.0], [1.0], 6.0), Ratios(0.1, 0.3))
    assert found.single.at((0,)) == Way(1, LONGEST_DRAFT, Bonus.ALWAYS)
    assert found.single_speedup[0] == pytest.approx((LONGEST_DRAFT + 1) / (LONGEST_DRAFT * 0.1 + 1))
    assert found.gain[0] < 1


@given(shares, shares)
def test_free_drafts_never_lose(one: float, other: float) -> None:
    """A draft that costs nothing leaves a verification that costs no more than a token and yields at least one."""
    draft, middle = sorted((one, other))
    found = compare(agreement([draft], [middle], 6.0), Ratios(0.0, 0.3))
    assert found.single_speedup[0] >= 1
    assert found.winner[0] != 0


@given(shares, st.floats(0.05, 0.5), lengths)
def test_middle_that_is_the_target(draft: float, cost: float, length: int) -> None:
    """Then HiSpec that verifies at once is single-layer speculation, run for run."""
    levels, ratios = agreement([draft], [1.0], 6.0), Ratios(cost, 1.0)
    hispec = hispec_ms_per_token(levels, ratios, length, Bonus.ON_MISMATCH, 1)[0]
    single = single_ms_per_token(levels.draft, ratios, 1, length, Bonus.ON_MISMATCH)
    assert hispec[0] == pytest.approx(single[0])


@given(shares, st.floats(0.01, 0.5), st.floats(0.0, 0.5), st.floats(0.0, 0.1))
def test_middle_that_knows_no_more_than_the_draft(share: float, cost: float, more: float, slope: float) -> None:
    """It never pays."""
    found = compare(agreement([share], [share], 6.0), Ratios(cost, min(1.0, cost + more), slope))
    assert found.gain[0] <= 1 + 1e-9


@given(shares, shares, shares, st.floats(0.0, 0.05))
def test_better_exits_are_no_slower(one: float, two: float, three: float, slope: float) -> None:
    """More agreement of the middle exit, or of the draft, speeds both kinds up or leaves them as they are."""
    low, mid, high = sorted((one, two, three))
    found = compare(agreement([low, low, mid], [mid, high, high], 1.0), Ratios(0.1, 0.3, slope, 0.02))
    for speedup in (found.single_speedup, found.hispec_speedup):
        assert speedup[0] <= speedup[1] * (1 + 1e-9)
        assert speedup[1] <= speedup[2] * (1 + 1e-9)


def test_correlation_costs_the_hierarchy() -> None:
    """The same agreements, levels that are right together: single-layer speculation is as fast, HiSpec no faster."""
    ratios = Ratios(0.1, 0.3)
    apart, together = (compare(agreement([0.6], [0.9], odds), ratios) for odds in (1.0, 6.0))
    assert apart.single_speedup[0] == together.single_speedup[0]
    assert apart.hispec_speedup[0] > together.hispec_speedup[0]


def test_fastest_is_what_exhaustion_finds() -> None:
    """Every way by itself, at one point."""
    levels, ratios = agreement([0.6], [0.9], 6.0), Ratios(0.1, 0.3, 0.02, 0.02)
    found = compare(levels, ratios)
    way = found.hispec.at((0,))
    by_hand = min(
        hispec_ms_per_token(levels, ratios, length, bonus, period)[-1][0]
        for bonus in Bonus
        for length in range(1, 7)
        for period in range(1, 25)
    )
    ms = hispec_ms_per_token(levels, ratios, way.draft_length, way.bonus, way.verify_period)[-1][0]
    assert found.hispec.ms[0] == by_hand == ms
