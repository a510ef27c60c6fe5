"""A latency profile of a network on this machine in a second or two: few points, enough to be right within a factor.
Processor time of this thread, so that what else runs matters less."""

from __future__ import annotations

import time
from functools import cache
from statistics import median

from hispec_sim.latency.profile import LatencyProfile, ProfileRow, Provenance
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.llama import Llama
from hispec_sim.models.loading import LoadedModel, load_model
from hispec_sim.models.packed import pack_for_cpu

BATCHES, TOKENS, CONTEXTS, REPEATS = (1, 4), (1, 4, 12), (16, 256), 9
DEPTH = 8
"""Layers that are timed at once."""


@cache
def reference() -> tuple[LoadedModel, LatencyProfile]:
    """The model that is shipped, packed, with its profile."""
    model = load_model("reference")
    pack_for_cpu(model.network)
    return model, quick_profile(model.network)


def quick_profile(network: Llama) -> LatencyProfile:
    """Layers, LM head and embedding, timed with the executor's own forwards."""
    shape = network.config.shape
    depth = min(DEPTH, shape.n_layers)
    cached = CachedNetwork(network, slots=max(BATCHES), max_tokens=CONTEXTS[-1], exits=[shape.n_layers])
    rows = []

    def timed(first: int, last: int, batch: int, tokens: int, context: int, logits: int) -> list[float]:
        position = max(0, context - tokens)
        pieces = [Piece(slot, position, tokens, logits, [5] * tokens) for slot in range(batch)]
        found = []
        for _ in range(REPEATS):
            began = time.thread_time()
            cached.forward(first, last, pieces)
            found.append(1000 * (time.thread_time() - began))
        return sorted(found)

    def row(op: str, batch: int, tokens: int, context: int | None, ms: list[float]) -> None:
        middle = median(ms)
        rows.append(ProfileRow(op, 1, batch, tokens, context, middle, "measured", min(ms[0], middle), ms[-1], len(ms)))

    for batch in BATCHES:
        for tokens in TOKENS:
            for context in CONTEXTS:
                row("layer", batch, tokens, context, [x / depth for x in timed(0, depth, batch, tokens, context, 0)])
    for tokens in (1, 48):
        with_head = timed(0, depth, 4 if tokens > 4 else 1, tokens // 4 or 1, 16, tokens // 4 or 1)
        bare = median(timed(0, depth, 4 if tokens > 4 else 1, tokens // 4 or 1, 16, 0))
        row("lm_head", 1, tokens, None, [max(x - bare, 1e-3) for x in with_head])
        row("embedding", 1, tokens, None, [1e-3] * REPEATS)
    about = Provenance("float32", {}, "2026-01-01", "in a test", "the executor's forwards of a few shapes")
    return LatencyProfile("this machine", shape, about, tuple(rows))
