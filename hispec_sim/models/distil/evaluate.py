"""How often each exit, with its head and without, says what the whole network says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hispec_sim.models.distil.loop import BATCH, batch_of, head_logits
from hispec_sim.models.distil.states import states_at
from hispec_sim.models.distil.write import Written
from hispec_sim.models.exits import ExitHead
from hispec_sim.models.llama import Llama
from hispec_sim.models.picking import likeliest


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares of positions where an exit's first choice is the network's; `error` is the standard error over sequences,
    `untrained` the share without a head."""

    exit_layer: int
    untrained: float
    share: float
    error: float
    greedy: float | None
    sampled: float | None
    by_topic: dict[str, float]


@torch.inference_mode()
def agreement(network: Llama, heads: Mapping[int, ExitHead], sequences: Sequence[Written]) -> list[Agreement]:
    """The agreement of each exit on text that the network wrote."""
    exits = sorted(heads)
    same: dict[tuple[int, bool], list[int]] = {(layer, headed): [] for layer in exits for headed in (False, True)}
    for first in range(0, len(sequences), BATCH):
        part = sequences[first : first + BATCH]
        batch = batch_of(part, network.embedding.weight.device)
        for layer, x in zip(exits, states_at(network, batch.tokens, exits), strict=True):
            for headed in (False, True):
                logits = head_logits(network, heads[layer], x, batch) if headed else network.read_out(x[batch.rows])
                hits = (likeliest(logits) == batch.choices[:, 0]).split([each.new_tokens for each in part])
                same[layer, headed] += [int(hit.sum()) for hit in hits]
    sizes = np.array([each.new_tokens for each in sequences])
    topics = np.array([each.topic for each in sequences])
    greedy = np.array([each.greedy for each in sequences])
    found = []
    for layer in exits:
        hits_with = np.array(same[layer, True])
        share = hits_with.sum() / sizes.sum()
        error = np.sqrt(((hits_with - share * sizes) ** 2).sum()) / sizes.sum()

        def over(chosen: np.ndarray, hits: np.ndarray = hits_with) -> float | None:
            return round(float(hits[chosen].sum() / sizes[chosen].sum()), 4) if chosen.any() else None

        by_topic = {str(topic): over(topics == topic) or 0.0 for topic in sorted(set(topics))}
        untrained = sum(same[layer, False]) / sizes.sum()
        found.append(
            Agreement(
                layer,
                round(float(untrained), 4),
                round(float(share), 4),
                round(float(error), 4),
                over(greedy),
                over(~greedy),
                by_topic,
            )
        )
    return found
