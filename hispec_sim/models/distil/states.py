"""What the frozen lower layers make of a text, which no training of heads changes."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hispec_sim.models.llama import Llama, attend_causally

ROOM_SHARE = 0.4
"""Of the memory that is free when training starts, what kept states may take."""


@torch.no_grad()
def states_at(
    network: Llama, tokens: Tensor, exits: Sequence[int], layers: Sequence[nn.Module] | None = None
) -> list[Tensor]:
    """Hidden states (sequences, tokens, hidden_size) at each exit, shallow to deep, from one pass through `layers`, the
    network's own unless given."""
    turn = network.rotations[None, : tokens.shape[1], None]
    x, states = network.embedding(tokens), []
    for first, last in zip((0, *exits), exits, strict=False):
        for layer in (layers or network.layers)[first:last]:
            x = layer(x, turn, attend_causally)
        states.append(x)
    return states


class KeptStates:
    """The hidden states at all exits, rounded to `dtype`, kept from the first pass over the text to the last: those
    layers are two fifths of a training step. A sequence for which there is no room is computed again; each is computed
    by itself, so that no state depends on what else was in its batch when it was.
    """

    def __init__(self, network: Llama, exits: Sequence[int], dtype: torch.dtype, room_bytes: int | None = None) -> None:
        """`room_bytes`: a share of the free memory unless given."""
        self._network, self._exits, self._dtype = network, tuple(exits), dtype
        self._layers = [_with_products_in(dtype, layer) for layer in network.layers[: exits[-1]]]
        self._room_bytes = _free_bytes(network.embedding.weight.device) if room_bytes is None else room_bytes
        self._kept: dict[int, Tensor] = {}

    def of(self, numbers: Sequence[int], tokens: Sequence[Tensor]) -> list[Tensor]:
        """As `states_at` of `tokens`, sequences known by `numbers`, but float32, and zero behind the end of each."""
        each = [self._of(number, alone) for number, alone in zip(numbers, tokens, strict=True)]
        longest, hidden_size = max(len(alone) for alone in tokens), each[0].shape[-1]
        states = each[0].new_zeros(len(self._exits), len(each), longest, hidden_size, dtype=torch.float32)
        for row, found in enumerate(each):
            states[:, row, : found.shape[1]] = found
        return list(states)

    def _of(self, number: int, tokens: Tensor) -> Tensor:
        """(exits, tokens, hidden_size)."""
        if number in self._kept:
            return self._kept[number]
        states = torch.cat(states_at(self._network, tokens[None], self._exits, self._layers)).to(self._dtype)
        if states.nbytes <= self._room_bytes:
            self._kept[number] = states
            self._room_bytes -= states.nbytes
        return states


def _with_products_in(dtype: torch.dtype, layer: nn.Module) -> nn.Module:
    """A layer that multiplies in `dtype`. Autocast does the same, but casts frozen weights anew for every sequence."""
    if all(weight.dtype == dtype for weight in layer.parameters()):
        return layer
    layer = copy.deepcopy(layer)
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)
    return layer


def _free_bytes(device: torch.device) -> int:
    """The room for kept states; none where the system does not say what is free."""
    if device.type == "cuda":
        return int(ROOM_SHARE * torch.cuda.mem_get_info(device)[0])
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return 0
    return int(ROOM_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
