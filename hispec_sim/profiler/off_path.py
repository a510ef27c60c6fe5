"""Behind a token that an exit would hold and the target reject: the exit goes on alone, and the exits below it read.

A cascade of the exit and a drafter below it is lossless towards the exit, so what they write there is what the exit
alone writes, whatever the drafter and its draft length; the drafter matters only by what it would have proposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hispec_sim.acceptance.trace import UNREAD, Exit, label_predictions
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.llama import Llama
from hispec_sim.models.picking import distributions_of, draw, likeliest


class Place(NamedTuple):
    """A wrong token and where it stands: the sequence, its place among the new tokens, its place in the whole text."""

    sequence: int
    position: int
    text_position: int
    token: int


@dataclass(frozen=True, slots=True)
class Chance:
    """How tokens are sampled, and a stream of random numbers."""

    temperature: float
    top_p: float
    generator: torch.Generator

    def distributions(self, logits: Tensor) -> Tensor:
        """Those that tokens are drawn from, (rows, vocab_size)."""
        return distributions_of(logits, self.temperature, self.top_p)

    def draw(self, weights: Tensor) -> Tensor:
        """A token for each row of weights, (rows, vocab_size)."""
        return draw(weights, self.generator)


def continue_alone(
    networks: Mapping[str, Llama],
    exits: Sequence[Exit],
    column: int,
    texts: Sequence[Sequence[int]],
    places: Sequence[Place],
    tokens: int,
    chance: Chance | None,
) -> NDArray[Any]:
    """Rows of `OffPath`, (places, tokens, exits), for wrong tokens of the exit `exits[column]`.

    Places of one sequence must come from its end to its beginning, so that what is behind a place in the caches is
    never needed again.
    """
    read = exits[: column + 1]
    longest = max(len(text) for text in texts) + tokens
    caches = {
        name: _Cache(networks[name], [e.exit_layer for e in read if e.network == name], texts, longest)
        for name in dict.fromkeys(e.network for e in read)
    }
    own = caches[exits[column].network]
    rows: NDArray[Any] = np.full((len(places), tokens, len(exits)), UNREAD, np.uint8)
    if chance is not None:
        rows = np.full(rows.shape, np.nan, np.float16)
    waiting: dict[int, list[int]] = {}
    for number, place in enumerate(places):
        waiting.setdefault(place.sequence, []).append(number)
    while waiting:
        turn = [numbers.pop(0) for numbers in waiting.values()]
        waiting = {sequence: numbers for sequence, numbers in waiting.items() if numbers}
        at = [places[number] for number in turn]
        written = _write(own, at, tokens, chance)
        logits = [each for cache in caches.values() for each in cache.read(at, [w[:-1] for w in written])]
        own_tokens = np.array([w[1:] for w in written]).reshape(-1)
        if chance is None:
            predictions = np.stack([each.argmax(-1).cpu().numpy() for each in logits], 1)
            predictions[:, -1] = own_tokens
            values: NDArray[Any] = label_predictions(predictions)
        else:
            drawn = torch.from_numpy(own_tokens)[:, None].to(logits[0].device)
            probabilities = [chance.distributions(each).gather(1, drawn)[:, 0] for each in logits]
            values = torch.stack(probabilities, 1).log().clamp(max=0).cpu().numpy().astype(np.float16)
        rows[turn, :, : column + 1] = values.reshape(len(turn), tokens, column + 1)
    return rows


class _Cache:
    """A network's caches that hold all texts, up to its deepest exit that is read."""

    def __init__(self, network: Llama, layers: Sequence[int], texts: Sequence[Sequence[int]], longest: int) -> None:
        self.layers = layers
        positions = min(longest, network.config.max_positions)
        self._cached = CachedNetwork(network, slots=len(texts), max_tokens=positions, exits=layers)
        self._network = network
        self._push([Piece(slot, 0, len(text), 0, text) for slot, text in enumerate(texts)])

    def _push(self, pieces: Sequence[Piece]) -> list[Tensor]:
        found, first_layer = [], 0
        for layer in self.layers:
            logits = self._cached.forward(first_layer, layer, pieces)
            first_layer = layer
            if logits is not None:
                found.append(logits)
        return found

    def deepest(self, pieces: Sequence[Piece]) -> Tensor:
        """Logits of the deepest exit."""
        logits = self._cached.forward(0, self.layers[-1], pieces)
        assert logits is not None
        return logits

    def read(self, at: Sequence[Place], written: Sequence[Sequence[int]]) -> list[Tensor]:
        """Logits of every exit behind each written token, (places * tokens, vocab_size) each."""
        return self._push(
            [Piece(p.sequence, p.text_position, len(w), len(w), w) for p, w in zip(at, written, strict=True)]
        )


@torch.inference_mode()
def _write(own: _Cache, at: Sequence[Place], tokens: int, chance: Chance | None) -> list[list[int]]:
    """The wrong token of each place and the `tokens` that follow it."""
    written = [[place.token] for place in at]
    for step in range(tokens):
        logits = own.deepest(
            [
                Piece(place.sequence, place.text_position + step, 1, 1, words[-1:])
                for place, words in zip(at, written, strict=True)
            ]
        )
        chosen = likeliest(logits) if chance is None else chance.draw(chance.distributions(logits))
        for words, token in zip(written, chosen.tolist(), strict=True):
            words.append(token)
    return written
