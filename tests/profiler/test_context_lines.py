"""Times along the context: lines where scatter hides them, steps where they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hispec_sim.profiler.context_lines import Curve, drawn

CONTEXTS = (32, 128, 256, 512)


def line(fixed: float, slope: float) -> np.ndarray:
    return fixed + slope * np.array(CONTEXTS)


def curve(ms: np.ndarray, error: float) -> Curve:
    return Curve(CONTEXTS, tuple(ms), (error,) * len(ms))


def test_what_scatters_about_lines_is_drawn_to_them() -> None:
    rng = np.random.default_rng(0)
    true = [line(1.0 + k, 0.001) for k in range(40)]
    noisy = [ms * (1 + 0.1 * rng.standard_normal(4)) for ms in true]
    found = np.array(drawn([curve(ms, 0.1) for ms in noisy]))
    before, after = (np.std(np.array(ms) / np.array(true) - 1) for ms in (noisy, found))
    assert after < 0.8 * before  # two parameters in place of four points: the root of a half at best


@pytest.mark.parametrize("error", [0.0, 0.001])
def test_steps_that_scatter_does_not_explain_stay(error: float) -> None:
    step = np.array([1.0, 1.0, 2.0, 2.0])
    assert drawn([curve(step, error)])[0] == pytest.approx(tuple(step), rel=1e-4)


def test_exact_lines_stay() -> None:
    ms = line(1.0, 0.002)
    assert drawn([curve(ms, 0.1), curve(ms, 0.0)]) == [pytest.approx(tuple(ms))] * 2


def test_one_or_two_contexts_are_no_line() -> None:
    short = Curve((32, 128), (1.0, 0.5), (0.5, 0.5))
    assert drawn([short, Curve((32,), (1.0,), (0.5,))]) == [(1.0, 0.5), (1.0,)]
    assert drawn([]) == []


def test_time_does_not_fall_along_the_context_by_scatter() -> None:
    falling = drawn([curve(np.array([1.2, 1.1, 1.0, 0.9]), 0.5)])[0]
    assert max(falling) == pytest.approx(min(falling))
    assert 0.9 < falling[0] < 1.2


@given(
    st.lists(st.floats(0.1, 10.0), min_size=4, max_size=4),
    st.floats(0.0, 1.0),
)
def test_points_go_towards_the_line_and_not_beyond(ms: list[float], error: float) -> None:
    free, bound = np.array(ms), np.array(drawn([curve(np.array(ms), 1e9)])[0])
    found = np.array(drawn([curve(free, error)])[0])
    assert (found > 0).all()
    low, high = np.minimum(free, bound), np.maximum(free, bound)
    assert (found >= low * (1 - 1e-9)).all()
    assert (found <= high * (1 + 1e-9)).all()
