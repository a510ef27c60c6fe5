"""What is measured: whole passes through a network, cut into spans in several ways.

Every pass ends at the network's last layer, so that the next begins as a step of decoding does: with the caches of the
processor full of other layers' weights. Cut differently, the same layers tell what a layer takes and what a forward
takes besides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hispec_sim.errors import InputError


@dataclass(frozen=True, slots=True, order=True)
class Shot:
    """One timed forward: `batch` sequences with `query_tokens` each, the last at position `context`, through layers
    (first_layer, last_layer], with or without logits for all of them. `repeat`: the same layers ran just before."""

    first_layer: int
    last_layer: int
    batch: int
    query_tokens: int
    context: int
    read_out: bool
    repeat: bool = False


Pass = tuple[Shot, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """The points of a profile. Raises InputError if an axis is empty, not rising from 1, or a context cannot hold the
    query tokens."""

    batches: tuple[int, ...]
    query_tokens: tuple[int, ...]
    contexts: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("batches", "query_tokens", "contexts"):
            values = getattr(self, name)
            if not values or values[0] < 1 or list(values) != sorted(set(values)):
                raise InputError(f"{name} must be rising whole numbers from 1 on, got {values}")
        if self.contexts[0] < self.query_tokens[-1]:
            raise InputError(
                f"a context of {self.contexts[0]} tokens cannot hold {self.query_tokens[-1]} query tokens; "
                "give a longer shortest context or fewer query tokens"
            )

    @property
    def keys(self) -> list[tuple[int, int, int]]:
        """All (batch, query_tokens, context)."""
        return [(b, q, c) for b in self.batches for q in self.query_tokens for c in self.contexts]


def cuts_of(n_layers: int) -> tuple[int, ...]:
    """Where a pass is cut: about a twentieth (a draft), an eighth, a quarter and half of the layers."""
    return tuple(sorted({max(1, n_layers // parts) for parts in (20, 8, 4, 2)} - {n_layers}))


def passes(n_layers: int, grid: Grid, heads: Collection[int], repeats: Sequence[int]) -> list[Pass]:
    """All passes. `heads` are exits that have a head of their own; `repeats` are short spans that are timed once more
    behind themselves, as drafting runs them."""
    found: list[Pass] = []
    for key in grid.keys:
        found.append((Shot(0, n_layers, *key, read_out=True),))
        edges = (0, *cuts_of(n_layers), n_layers)
        found.append(tuple(Shot(first, last, *key, read_out=last == n_layers) for first, last in pairwise(edges)))
        for layer in sorted(heads):
            found.append((Shot(0, layer, *key, read_out=True), Shot(layer, n_layers, *key, read_out=False)))
        if key[1] == 1:
            for layer in repeats:
                fresh = Shot(0, layer, *key, read_out=False)
                again = Shot(0, layer, *key, read_out=False, repeat=True)
                found.append((fresh, again, again, Shot(layer, n_layers, *key, read_out=True)))
    return found
