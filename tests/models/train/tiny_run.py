"""A corpus of a few lines and a recipe of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hispec_sim.models.train.corpus import Corpus, Document
from hispec_sim.models.train.recipe import Recipe
from hispec_sim.models.train.reference import start
from hispec_sim.models.train.span import Speed

LINES = "".join(f"def area_{n}(width, height):\n    return width * height + {n}\n\n" for n in range(12))
CORPUS = Corpus("lines 1.0", (Document("models/one/a.py", LINES),), (Document("models/two/b.py", LINES * 2),))


def tiny_recipe(steps: int = 12, **changes: Any) -> Recipe:
    """A network of six layers, and a small step."""
    values: dict[str, Any] = {
        "steps": steps, "seed": 3, "n_layers": 6, "hidden_size": 32, "n_heads": 2, "head_dim": 16,
        "intermediate_size": 48, "vocab_size": 280, "max_positions": 64, "batch": 4, "context": 32,
        "learning_rate": 1e-2, "exits": {1: 0.5, 2: 1.0, 3: 1.0, 4: 0.5}, "shallow_depths": (3, 4), "pulling_from": 2,
    }  # fmt: skip
    return Recipe(**(values | changes))


def tiny_run(folder: Path, steps: int = 12, **changes: Any) -> Path:
    """A prepared run folder."""
    start(folder, CORPUS, tiny_recipe(steps, **changes), Speed())
    return folder
