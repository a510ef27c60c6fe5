"""Chains of levels keep what is known of each level; exit curves pass through what is known of a network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hispec_sim.acceptance.chain import chain
from hispec_sim.acceptance.exit_curve import ExitCurve, known_exit_curves
from hispec_sim.errors import InputError
from hispec_sim.published.conversion import per_token_from_matched
from hispec_sim.published.data import published_table


@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4), st.floats(0.3, 1.0))
def test_every_level_is_as_right_as_was_asked(shares: list[float], kappa: float) -> None:
    """A token that all levels above confirm, and a level's own token, as the sampler composes them."""
    shares = sorted(shares)
    agreement = chain(shares, kappa).agreement
    assume(all(pair.if_agreed < 1 for pair in agreement[1:]))
    agrees = 1.0
    for k, share in enumerate(shares):
        above = float(np.prod([pair.if_agreed for pair in agreement[k + 1 :]]))
        pair = agreement[k]
        agrees = agrees * pair.if_agreed + (1 - agrees) * pair.if_differed if k else pair.if_agreed
        assert agrees * above == pytest.approx(share)


def test_a_level_that_knows_less_than_the_one_below_is_refused() -> None:
    for shares in ((0.8, 0.7), (0.0, 0.5), (0.5, 1.1)):
        with pytest.raises(InputError, match="rise to at most 1"):
            chain(shares)
    with pytest.raises(InputError, match="differed_over_agreed"):
        chain((0.5,), 0.0)


def test_the_shipped_curve_is_the_published_figure() -> None:
    """HiSpec Figure 6 as shares of two drafted tokens, per token, kept from falling."""
    rates = [float(row["acceptance"]) for row in published_table("hispec_fig6").rows]
    expected = np.maximum.accumulate([per_token_from_matched(rate, 2) for rate in rates])
    assert known_exit_curves()["codellama-34b"].accept == pytest.approx(expected, abs=6e-4)


@given(
    st.dictionaries(st.integers(1, 79), st.floats(0.05, 0.95), min_size=1, max_size=3),
    st.sampled_from([32, 80]),
)
def test_a_curve_meets_its_anchors_and_rises_to_the_whole_network(anchors: dict[int, float], n_layers: int) -> None:
    assume(max(anchors) < n_layers)
    shares = sorted(anchors.values())
    anchors = dict(zip(sorted(anchors), shares, strict=True))
    curve = known_exit_curves()["codellama-34b"].through(n_layers, anchors)
    assert curve.shape == (n_layers + 1,)
    assert (curve[0], curve[-1]) == (0.0, 1.0)
    assert (np.diff(curve) >= 0).all()
    first = min(anchors)
    assert curve[first] == pytest.approx(anchors[first])
    for layer, share in anchors.items():
        assert curve[layer] >= share - 1e-12


def test_a_network_led_through_its_own_curve_is_that_curve() -> None:
    curve = known_exit_curves()["codellama-34b"]
    same = curve.through(48, {12: curve.accept[11]})
    assert same[1:32] == pytest.approx(curve.accept)
    assert same[40] == pytest.approx(0.954 + (1 - 0.954) * 9 / 17)


@pytest.mark.parametrize("anchors", [{}, {0: 0.5}, {32: 0.5}, {8: 1.0}, {8: 0.6, 10: 0.5}])
def test_wrong_anchors_are_refused(anchors: dict[int, float]) -> None:
    with pytest.raises(InputError):
        known_exit_curves()["codellama-34b"].through(32, anchors)


def test_a_curve_must_rise() -> None:
    with pytest.raises(InputError, match="rise"):
        ExitCurve(4, (0.5, 0.4), "here")
