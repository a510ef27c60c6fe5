"""The machine's pace, told by neighbouring scenes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hispec_sim.profiler.fit import fit
from hispec_sim.profiler.forwards import Point, What
from hispec_sim.profiler.pace import Scene, paces, steadied

POINTS, ROUNDS, SCENE_S = 30, 7, 0.07


def span(last_layer: int) -> Point:
    return Point(What.SPAN, 1, 1, 8, 0, last_layer)


def scenes_of(rng: np.random.Generator, slower: np.ndarray, scatter: float) -> list[Scene]:
    """Rounds of all points in random order. Point n takes n + 1 ms, at the pace of its scene, with scatter."""
    order = np.concatenate([rng.permutation(POINTS) for _ in range(ROUNDS)])
    times = (order + 1) * slower * np.exp(scatter * rng.standard_normal(len(order)))
    return [
        Scene(SCENE_S * n, ((span(int(p) + 1), float(ms)),)) for n, (p, ms) in enumerate(zip(order, times, strict=True))
    ]


def spells(rng: np.random.Generator) -> np.ndarray:
    """Up to 1.6 times slower than at best, another pace every second."""
    return np.repeat(rng.uniform(1.0, 1.6, POINTS * ROUNDS // 14), 14)


def errors(times: dict[Point, list[float]]) -> np.ndarray:
    """Of the medians, relative to the usual times, but for a factor that all have in common."""
    off = np.array([np.median(times[span(n + 1)]) / (n + 1) for n in range(POINTS)])
    return np.abs(off / np.median(off) - 1)


def raw(scenes: list[Scene]) -> dict[Point, list[float]]:
    found: dict[Point, list[float]] = {}
    for scene in scenes:
        for point, ms in scene.samples:
            found.setdefault(point, []).append(ms)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_medians_at_the_usual_pace_scatter_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = scenes_of(rng, spells(rng), 0.02)
    assert errors(steadied(scenes)).mean() < errors(raw(scenes)).mean() / 2


def test_a_quiet_machine_keeps_its_times_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    scenes = scenes_of(rng, np.ones(POINTS * ROUNDS), 0.0)
    assert not paces(scenes).any()
    assert steadied(scenes) == raw(scenes)


def test_scatter_without_spells_is_left_alone() -> None:
    """Neighbours foretell nothing there: dividing by what they took would only add their scatter."""
    rng = np.random.default_rng(0)
    scenes = scenes_of(rng, np.ones(POINTS * ROUNDS), 0.2)
    assert paces(scenes).std() < 0.04
    assert errors(steadied(scenes)).mean() < 1.1 * errors(raw(scenes)).mean()


def test_scenes_of_long_ago_are_no_neighbours() -> None:
    """Slow before a pause and fast behind it: nothing of the one is told of the other."""
    rng = np.random.default_rng(0)
    scenes = scenes_of(rng, np.repeat([1.4, 1.0], [105, 105]), 0.0)
    apart = [Scene(s.at_s + 3600 * (n >= 105), s.samples) for n, s in enumerate(scenes)]
    found = np.exp(paces(apart))
    assert found[104] / found[105] == pytest.approx(1.4, rel=0.05)
    assert errors(steadied(apart)).max() < 0.03


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), unit=st.floats(1e-3, 1e3))
def test_the_unit_of_time_does_not_matter(seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    scenes = scenes_of(rng, spells(rng), 0.05)
    other = [Scene(s.at_s, tuple((p, unit * ms) for p, ms in s.samples)) for s in scenes]
    assert paces(other) == pytest.approx(paces(scenes), abs=1e-6)


def test_samples_that_are_no_forwards_have_the_pace_of_their_scene() -> None:
    gap = Point(What.READ, 1, 1)
    rng = np.random.default_rng(0)
    slower = spells(rng)
    scenes = [
        Scene(s.at_s, (*s.samples, (gap, 0.1 * pace)))
        for s, pace in zip(scenes_of(rng, slower, 0.0), slower, strict=True)
    ]
    at_one_pace = np.array(steadied(scenes)[gap])
    assert np.median(np.abs(at_one_pace / np.median(at_one_pace) - 1)) < 0.02
    assert not paces([Scene(0.0, ((gap, 0.1),)), Scene(1.0, ((gap, 0.2),))]).any()
    assert len(paces([])) == 0


def test_times_at_the_usual_pace_add_up_to_what_all_took() -> None:
    """Three quarters of the time as fast as can be, a quarter twice slower: usual is neither."""
    scenes = scenes_of(
        np.random.default_rng(0), np.tile(np.repeat([1.0, 1.0, 1.0, 2.0], 20), 3)[: POINTS * ROUNDS], 0.0
    )
    of_all = sum(sum(ms) for ms in steadied(scenes).values())
    assert of_all == pytest.approx(sum(ms for s in scenes for _, ms in s.samples), rel=0.02)
    assert np.median(steadied(scenes)[span(1)]) > 1.1


def test_rows_take_medians_at_the_usual_pace_and_the_spread_of_the_times() -> None:
    repeat = Point(What.REPEAT, 1, 1, 8, 0, 1, 1)
    whole = [Point(What.SPAN, 1, 1, 8, 0, n, int(n == 2)) for n in (1, 2)]
    head = Point(What.SPAN, 1, 1, 8, 1, 2, 1)
    samples = {repeat: [1.0, 2.0, 2.0], whole[0]: [2.0] * 3, whole[1]: [5.0] * 3, head: [4.0] * 3}
    row = next(
        r for r in fit(samples, {**samples, repeat: [1.0, 1.0, 1.0]}).rows if r.op == "repeat_1" and r.context == 8
    )
    assert (row.ms, row.p10_ms) == (1.0, 1.0)
    assert row.p90_ms == 2.0
