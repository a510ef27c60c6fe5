"""A quick look at an unfinished network on held-out text: loss and agreement with the full model at every exit."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hispec_sim.models.llama import Llama, attend_causally

WINDOWS = 16


@torch.inference_mode()
def probe(network: Llama, stream: np.ndarray, context: int, exits: list[int]) -> dict[str, dict[int, float]]:
    """Text loss in nats (`loss`) and share of positions where an exit predicts what the full model does (`agreement`),
    by exit layer, on windows spread evenly over a stream of tokens."""
    context = min(context, len(stream) - 1)
    starts = np.linspace(0, len(stream) - context - 1, WINDOWS).astype(int)
    text = torch.from_numpy(stream[starts[:, None] + np.arange(context + 1)].astype(np.int64))
    *lower, full = exit_logits(network, text[:, :-1], [*exits, network.config.shape.n_layers])
    predicted = full.argmax(-1)
    losses, agreement = {}, {}
    for exit_layer, logits in zip([*exits, network.config.shape.n_layers], [*lower, full], strict=True):
        losses[exit_layer] = F.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).item()
        agreement[exit_layer] = (logits.argmax(-1) == predicted).float().mean().item()
    return {"loss": losses, "agreement": agreement}


@torch.inference_mode()
def exit_logits(network: Llama, tokens: Tensor, exits: list[int]) -> list[Tensor]:
    """Logits (batch, tokens, vocab_size) at each of `exits`, ascending, from one pass over whole sequences."""
    turn = network.rotations[None, : tokens.shape[1], None]
    x, at, found = network.embedding(tokens), 0, []
    for exit_layer in exits:
        x = network.span(x, at, exit_layer, turn, attend_causally)
        at = exit_layer
        found.append(network.read_out(x))
    return found
