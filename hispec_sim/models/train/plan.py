"""What one training step does: which layers run and which exits are read out. Pure, drawn from (seed, step).

Each step has a random stream of its own, so a resumed run needs no generator's state to repeat the uninterrupted one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hispec_sim.models.train.recipe import Recipe

_PLAN, _TEXT = 0, 1  # streams of one step


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of training."""

    layers: tuple[int, ...]
    """Indices of the layers that run, in order; those dropped are missing."""
    depth: int
    """The deepest exit layer of the step, whose loss has weight 1."""
    exits: tuple[int, ...]
    """Further exit layers that are read out, ascending, all below `depth`."""
    distill: float
    """Part of their loss that is divergence from the deepest exit."""


def plan_step(recipe: Recipe, step: int) -> StepPlan:
    """The plan of a step; the same for the same recipe and step."""
    rng = np.random.default_rng([recipe.seed, _PLAN, step])
    done = step / recipe.steps
    depth = recipe.n_layers
    if rng.random() < recipe.shallow_share:
        depth = int(rng.choice(recipe.shallow_depths))
    below = [layer for layer in recipe.exits if layer < depth]
    weights = np.array([recipe.exits[layer] for layer in below])
    drawn = min(recipe.drawn_exits, len(below))
    exits = rng.choice(below, drawn, replace=False, p=weights / weights.sum()) if drawn else np.array([], int)
    kept = rng.random(depth) >= drop_rates(recipe)[:depth] if done < recipe.dropout_until else np.ones(depth, bool)
    return StepPlan(
        layers=tuple(np.flatnonzero(kept).tolist()),
        depth=depth,
        exits=tuple(sorted(exits.tolist())),
        distill=recipe.distill_share if done >= recipe.distill_from else 0.0,
    )


def drop_rates(recipe: Recipe) -> np.ndarray:
    """Probability that each layer is dropped, shape (n_layers,): LayerSkip's p_max (exp(l ln 2 / (L - 1)) - 1)."""
    depth = np.arange(recipe.n_layers) / max(1, recipe.n_layers - 1)
    return recipe.layer_dropout * (np.exp(depth * math.log(2)) - 1)


def draw_windows(recipe: Recipe, step: int, stream: np.ndarray) -> np.ndarray:
    """The step's text: windows at random places of a token stream, int64 of shape (batch, context + 1)."""
    rng = np.random.default_rng([recipe.seed, _TEXT, step])
    starts = rng.integers(0, len(stream) - recipe.context, recipe.batch)
    return stream[starts[:, None] + np.arange(recipe.context + 1)].astype(np.int64)


def mean_layers(recipe: Recipe) -> tuple[float, float]:
    """Layers and read-outs of an average step of this run, over its first thousand steps."""
    plans = [plan_step(recipe, step) for step in range(min(recipe.steps, 1000))]
    return float(np.mean([len(p.layers) for p in plans])), float(np.mean([1 + len(p.exits) for p in plans]))
