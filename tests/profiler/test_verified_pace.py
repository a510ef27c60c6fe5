"""Scenes of drafts brought to one pace by the verifications in them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from hispec_sim.profiler.forwards import Point, What
from hispec_sim.profiler.verified_pace import FEWEST, at_one_pace

EXITS, CONTEXTS, TOKENS, N_LAYERS = (1, 2, 4, 6, 8, 16), (32, 512), (2, 3, 5, 9), 40


def device(exits: tuple[int, ...] = EXITS, *, steps: float = 0.0) -> dict[Point, float]:
    """What verifications and drafts take: a fixed time, layers, and attention. Drafts take `steps` more at some exits,
    as where layers do not fit into a cache."""
    found = {}
    for exit_layer, context, batch in product(exits, CONTEXTS, (1, 4)):
        for tokens in TOKENS:
            layer_ms = 0.2 + 0.01 * batch * tokens + 1e-4 * batch * context
            point = Point(What.VERIFY, batch, tokens, context, exit_layer, N_LAYERS, tokens)
            found[point] = 0.5 + (N_LAYERS - exit_layer) * layer_ms
        for place, read in product((1, 2, 8), (0, 1)):
            draft = Point(What.REPEAT, batch, place, context, 0, exit_layer, read)
            found[draft] = 0.3 + 0.2 * exit_layer / place + steps * (exit_layer > 4)
    return found


def test_a_device_of_one_pace_is_left_as_it_is():
    exact = device(steps=1.0)
    assert at_one_pace(exact) == pytest.approx(exact)


def test_a_scene_in_a_slow_moment_is_found_out():
    """Of the paces of twelve scenes three numbers of the plane keep a share; drafts have steps, which stay."""
    exact, rng = device(steps=1.0), np.random.default_rng(0)
    pace = {scene: float(np.exp(0.05 * rng.standard_normal())) for scene in product(EXITS, CONTEXTS, (1, 4))}

    def scene(point: Point) -> tuple[int, int, int]:
        return (point.first_layer or point.last_layer, point.context, point.batch)

    timed = {point: ms * pace[scene(point)] for point, ms in exact.items()}
    found = at_one_pace(timed)
    assert found.keys() == exact.keys()
    for what in (What.VERIFY, What.REPEAT):
        points = [point for point in exact if point.what is what]
        before, after = (np.std([np.log(each[point] / exact[point]) for point in points]) for each in (timed, found))
        assert after < 0.6 * before


def test_a_few_verifications_tell_nothing():
    few = device(EXITS[: FEWEST // 2 - 1])
    assert at_one_pace(few) == {}
