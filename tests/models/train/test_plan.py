"""What a step does follows from the recipe and its number alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hispec_sim.errors import InputError
from hispec_sim.models.train.plan import draw_windows, drop_rates, mean_layers, plan_step
from hispec_sim.models.train.recipe import Recipe

RECIPE = Recipe(steps=2000, seed=7)


def test_plans_are_the_same_for_the_same_seed() -> None:
    """And others for another seed."""
    plans = [plan_step(RECIPE, step) for step in range(50)]
    assert plans == [plan_step(RECIPE, step) for step in range(50)]
    assert plans != [plan_step(replace(RECIPE, seed=8), step) for step in range(50)]


def test_a_known_plan() -> None:
    """Written down, so that a change of the draws does not go unseen."""
    assert [(p.depth, p.exits, len(p.layers)) for p in (plan_step(RECIPE, step) for step in range(4))] == KNOWN


def test_exits_are_drawn_by_weight_and_layers_dropped_by_depth() -> None:
    """Over many steps; exits lie below the depth, ascending, each once."""
    exits: Counter[int] = Counter()
    kept, full = np.zeros(RECIPE.n_layers), 0
    for step in range(1500):
        plan = plan_step(RECIPE, step)
        assert list(plan.exits) == sorted(set(plan.exits))
        assert all(layer < plan.depth for layer in plan.exits)
        assert all(layer < plan.depth for layer in plan.layers)
        exits.update(plan.exits)
        if plan.depth == RECIPE.n_layers:
            full += 1
            kept[list(plan.layers)] += 1
    assert abs(full / 1500 - 0.4) < 0.05
    assert exits[10] > exits[8] > exits[4] > exits[1] > 0
    dropped = 1 - kept / full
    assert dropped[0] == 0
    assert abs(dropped[-10:].mean() - drop_rates(RECIPE)[-10:].mean()) < 0.02


def test_schedules() -> None:
    """Nothing is dropped in the last fifth; divergence begins later; the learning rate warms up and ends at zero."""
    late = [plan_step(RECIPE, step) for step in range(1600, 1700)]
    assert all(len(plan.layers) == plan.depth for plan in late)
    assert plan_step(RECIPE, 599).distill == 0
    assert plan_step(RECIPE, 600).distill == RECIPE.distill_share
    rates = [RECIPE.learning_rate_at(step) for step in range(2000)]
    assert max(rates) == rates[59] == RECIPE.learning_rate
    assert rates[0] == pytest.approx(RECIPE.learning_rate / 60)
    assert rates[-1] < 1e-5 * RECIPE.learning_rate * 10


def test_layer_dropout_is_layerskips() -> None:
    """Zero at the first layer, the recipe's rate at the last, exponential between (arXiv 2404.16710, 4.1.1)."""
    rates = drop_rates(replace(RECIPE, n_layers=33))
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.15)
    assert rates[16] == pytest.approx(0.15 * (2**0.5 - 1))


def test_windows_are_pieces_of_the_stream() -> None:
    """Of context + 1 tokens, the same for the same step."""
    stream = np.arange(5000, dtype=np.uint16)
    windows = draw_windows(RECIPE, 3, stream)
    assert windows.shape == (4, 513)
    assert (np.diff(windows) == 1).all()
    assert np.array_equal(windows, draw_windows(RECIPE, 3, stream))
    assert not np.array_equal(windows, draw_windows(RECIPE, 4, stream))


def test_mean_layers() -> None:
    """Without shallow steps and dropout: all of them, and every read-out."""
    assert mean_layers(replace(RECIPE, shallow_share=0.0, layer_dropout=0.0)) == (40.0, 3.0)
    assert 21 < mean_layers(RECIPE)[0] < 25


def test_a_recipe_survives_a_file() -> None:
    """As JSON."""
    assert Recipe.from_json(RECIPE.to_json()) == RECIPE
    with pytest.raises(InputError, match="does not know: colour"):
        Recipe.from_json({**RECIPE.to_json(), "colour": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"layer_dropout": 1.5}, "between 0 and 1"),
        ({"clip": 0.0}, "above 0"),
        ({"context": 1024}, "longer than max_positions"),
        ({"exits": {40: 1.0}}, r"must lie in 1 to 39, got \[40\]"),
        ({"exits": {2: 0.0}}, "weights of exits must be above 0"),
        ({"shallow_depths": ()}, "needs shallow_depths"),
        ({"n_heads": 0}, "n_heads"),
    ],
)
def test_bad_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    """When made, with what is wrong."""
    with pytest.raises(InputError, match=message):
        replace(RECIPE, **changes)


KNOWN: list[tuple[int, tuple[int, ...], int]] = [
    (40, (12, 16), 35),
    (40, (10, 24), 37),
    (12, (2, 10), 12),
    (40, (16, 24), 37),
]
