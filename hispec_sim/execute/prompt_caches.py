"""Prompts that stand in caches before they are decoded: a prompt goes through a network once, however many cascades
decode it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch

from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.llama import Llama


def prefill(network: CachedNetwork, slot: int, tokens: Sequence[int], depths: Sequence[int]) -> None:
    """Push tokens through a slot, from one of the depths to the next. Each of them reads out one token, so that exit
    heads with a cache have it filled too."""
    logits = None
    for first, last in pairwise((0, *depths)):
        piece = Piece(slot, 0, len(tokens), 1, tokens if first == 0 else ())
        logits = network.forward(first, last, [piece])
    if logits is not None and logits.is_cuda:
        torch.cuda.synchronize(logits.device)


class PromptCaches:
    """The last few prompts that went through a network, each in a cache of its own, from which caches of decoders are
    filled."""

    def __init__(self, network: Llama, exits: Sequence[int], *, keep: int) -> None:
        """`exits`: all that the networks to be filled have; `keep`: how many prompts are kept."""
        n_layers = network.config.shape.n_layers
        self._network, self._keep = network, keep
        self._depths = tuple(sorted({*exits, n_layers}))
        self._kept: OrderedDict[tuple[int, ...], CachedNetwork] = OrderedDict()

    def fill(self, network: CachedNetwork, slot: int, tokens: Sequence[int]) -> None:
        """Let a slot hold these tokens. Raises KeyError if the network keeps states of an exit that is not known
        here."""
        network.copy_slot(slot, self._standing(tuple(tokens)), len(tokens))

    def run_last(self, tokens: Sequence[int]) -> None:
        """Push the last of these tokens through all layers once more. Their caches hold the same as before."""
        cached = self._standing(tuple(tokens))
        cached.forward(0, self._depths[-1], [Piece(0, len(tokens) - 1, 1, 1, tokens[-1:])])

    def _standing(self, tokens: tuple[int, ...]) -> CachedNetwork:
        if tokens in self._kept:
            self._kept.move_to_end(tokens)
            return self._kept[tokens]
        cached = CachedNetwork(self._network, slots=1, max_tokens=len(tokens), exits=self._depths)
        prefill(cached, 0, tokens, self._depths)
        self._kept[tokens] = cached
        if len(self._kept) > self._keep:
            self._kept.popitem(last=False)
        return cached
