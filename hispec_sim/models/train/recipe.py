"""What is trained and how: every number of the recipe, with its source.

The recipe is LayerSkip's (Elhoushi et al. 2024, arXiv 2404.16710): layer dropout that rises with depth, and
early-exit losses through one shared final norm and LM head. What differs from it says so.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from hispec_sim.errors import InputError
from hispec_sim.models.config import LlamaConfig
from hispec_sim.networks import NetworkSpec


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a run, apart from the text. The same recipe and seed give the same weights on the same
    machine, with the same number of threads."""

    steps: int
    """Optimizer steps. All schedules are in shares of them."""
    seed: int = 0

    # The network: deep and narrow, because the cost of a layer on a CPU is mostly dispatch.
    n_layers: int = 40
    hidden_size: int = 128
    n_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 256
    vocab_size: int = 2048
    max_positions: int = 512

    # What one step sees.
    batch: int = 4
    context: int = 512

    # AdamW (Loshchilov and Hutter, arXiv 1711.05101), warm-up and cosine to zero (arXiv 1608.03983).
    learning_rate: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    warmup: float = 0.03

    # Layer dropout (LayerSkip 4.1.1): the rate rises exponentially from 0 at the first layer to this at the last.
    # Here a layer is dropped for a whole batch, which saves its time, and not sequence by sequence.
    layer_dropout: float = 0.15
    dropout_until: float = 0.8
    """Share of the steps after which no layer is dropped any more."""

    # Early-exit losses (LayerSkip 4.1.2). LayerSkip takes all exits, weighted by depth and by a curriculum; here a few
    # are drawn each step, by weight, which costs less. Heaviest at a quarter of the depth: there a cascade verifies.
    exits: dict[int, float] = field(
        default_factory=lambda: {1: 0.3, 2: 0.6, 4: 0.5, 6: 0.7, 8: 1.2, 10: 2.4, 12: 1.2, 16: 0.6, 24: 0.3}
    )
    """Weight of each exit layer in the draw."""
    drawn_exits: int = 2
    exit_scale: float = 0.4
    """Weight of one drawn exit's loss beside the deepest loss of the step."""
    shallow_share: float = 0.6
    """Share of the steps that run only the first layers, up to one of `shallow_depths`: cheaper, and a stronger form
    of layer dropout."""
    shallow_depths: tuple[int, ...] = (10, 12, 16)

    # Self-distillation: later on, part of an exit's loss is the divergence from the deepest exit of the step
    # (Hinton et al., arXiv 1503.02531; within one network: Zhang et al., arXiv 1905.08094).
    distill_from: float = 0.3
    """Share of the steps after which it begins."""
    distill_share: float = 0.7
    """Part of an exit's loss that is divergence; the rest is the text."""
    pull: float = 0.5
    """How much of the divergence's gradient reaches the deepest exit itself (0: it is a fixed teacher). Above 0 the
    full network leaves what a middle exit says only where the text pays for it. Not in LayerSkip."""
    pulling_from: int = 8
    """Shallowest exit layer that pulls."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step predicts."""
        return self.batch * self.context

    def config(self) -> LlamaConfig:
        """The network's architecture."""
        shape = NetworkSpec(
            name="hispec-reference",
            n_layers=self.n_layers,
            hidden_size=self.hidden_size,
            n_heads=self.n_heads,
            n_kv_heads=self.n_heads,
            head_dim=self.head_dim,
            intermediate_size=self.intermediate_size,
            vocab_size=self.vocab_size,
            tied_embedding=True,
        )
        return LlamaConfig(shape, max_positions=self.max_positions)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine that reaches zero after the last step."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def to_json(self) -> dict[str, Any]:
        """Plain data for a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The recipe that `to_json` wrote. Raises InputError for keys that no recipe has or values it refuses."""
        unknown = sorted(set(data) - {known.name for known in fields(cls)})
        if unknown:
            raise InputError(f"this recipe has keys that this version does not know: {', '.join(unknown)}")
        exits = {int(layer): float(weight) for layer, weight in data["exits"].items()}
        return cls(**{**data, "exits": exits, "shallow_depths": tuple(data["shallow_depths"])})


def _check(recipe: Recipe) -> None:
    for name in ("steps", "batch", "context", "drawn_exits", "vocab_size"):
        if getattr(recipe, name) < 1:
            raise InputError(f"recipe: {name} must be at least 1, got {getattr(recipe, name)}")
    for name in ("warmup", "layer_dropout", "dropout_until", "shallow_share", "distill_from", "distill_share", "pull"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise InputError(f"recipe: {name} must be between 0 and 1, got {getattr(recipe, name)}")
    for name in ("learning_rate", "clip", "exit_scale"):
        if not getattr(recipe, name) > 0:
            raise InputError(f"recipe: {name} must be above 0, got {getattr(recipe, name)}")
    if recipe.context > recipe.max_positions:
        raise InputError(f"recipe: context {recipe.context} is longer than max_positions {recipe.max_positions}")
    wrong = [layer for layer in (*recipe.exits, *recipe.shallow_depths) if not 1 <= layer < recipe.n_layers]
    if wrong:
        raise InputError(f"recipe: exit layers must lie in 1 to {recipe.n_layers - 1}, got {wrong}")
    if any(not weight > 0 for weight in recipe.exits.values()):
        raise InputError("recipe: weights of exits must be above 0; leave out an exit that is never drawn")
    if recipe.shallow_share > 0 and not recipe.shallow_depths:
        raise InputError("recipe: shallow_share needs shallow_depths")
    recipe.config()
