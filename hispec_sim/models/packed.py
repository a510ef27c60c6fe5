"""Weights laid out for fast decoding on CPUs, by oneDNN.

torch's own product of a few tokens with a matrix reads it in an order made for many tokens. Packed once for few, the
same product takes about half the time for 2 to 16 tokens, which is what verifying drafts is, and no more for one token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor, nn

from hispec_sim.models.llama import Llama, dtype_of
from hispec_sim.models.memory import give_back

LEAST_WEIGHTS = 1 << 17
"""Smaller matrices are left alone: a packed product costs 10 to 15 microseconds more to start, which below this size is
more than it saves (measured on one thread: 128 x 512 is slower packed at 1 to 16 tokens, 256 x 768 twice as fast)."""

FEW_TOKENS = 8
"""The number of tokens that the layout is made for; made for 1, it loses its advantage at more."""


WIDENED_WEIGHTS = 1 << 19
"""On some processors a packed product of 1 or 2 tokens takes longer than one of 3 to 6: what it multiplies at once is
too little to keep the memory busy. There a matrix of at least this size multiplies copies of the tokens too. Smaller
ones gain nothing anywhere."""

WIDE = 4
"""How many tokens it multiplies then."""

TRIED_WEIGHTS, TRIALS, WORTH = 1 << 25, 5, 0.95
"""Whether this is such a processor is tried so often on matrices of so many weights in all, more than caches hold; with
copies a product must take at most this share of its time without. (On a Xeon with AVX-512 it takes 1.12 to 1.17.)"""


class PackedLinear(nn.Module):
    """x (..., in) -> (..., out), without bias; forward only."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), FEW_TOKENS)
        self.in_features, self.large = weight.shape[1], weight.numel() >= WIDENED_WEIGHTS
        self.widens = False
        """Set by `pack_for_cpu`: whether one or two tokens are multiplied as four."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[-2]
        if self.widens and tokens <= WIDE // 2 and x.numel() == tokens * x.shape[-1]:
            return self._product(x.repeat_interleave(WIDE // tokens, dim=-2))[..., :: WIDE // tokens, :]
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        return product


@torch.no_grad()
def pack_for_cpu(network: Llama) -> Llama:
    """The same network, its large matrices packed in place where that helps: on a CPU, in fp32, if this torch can.

    A packed matrix replaces the plain one, so memory stays the same; only a head tied to the embedding becomes a matrix
    of its own. Logits change in the last digits. A packed network can neither be trained nor saved.
    """
    if network.embedding.weight.device.type != "cpu" or dtype_of(network) != torch.float32 or not _can_pack():
        return network
    places = [  # and not the matrices themselves, which would all stay until the last is packed
        (module, name) for module in network.modules() for name, child in module.named_children() if _is_large(child)
    ]
    for module, name in places:
        setattr(module, name, PackedLinear(getattr(module, name).weight))
        give_back()
    large = [module for module in network.modules() if isinstance(module, PackedLinear) and module.large]
    widens = _widening_pays(large)
    for module in large:
        module.widens = widens
    return network


def _widening_pays(large: Sequence[PackedLinear]) -> bool:
    """Whether one token takes less time as four: the least of some trials, for others may use the processor too."""
    weights = accumulate(module.packed.numel() for module in large)
    tried = [module for module, before in zip(large, chain([0], weights), strict=False) if before < TRIED_WEIGHTS]
    if not tried:
        return False
    tokens = [torch.ones(1, module.in_features) for module in tried]
    least_s = {True: math.inf, False: math.inf}
    for widens in (True, False) * TRIALS:
        for module in tried:
            module.widens = widens
        began_s = time.perf_counter()
        for module, x in zip(tried, tokens, strict=True):
            module(x)
        least_s[widens] = min(least_s[widens], time.perf_counter() - began_s)
    return least_s[True] <= WORTH * least_s[False]


def _is_large(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.bias is None and module.weight.numel() >= LEAST_WEIGHTS


def _can_pack() -> bool:
    """Whether this torch has oneDNN and the two operations, which are not part of its public interface."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        probe = PackedLinear(torch.eye(16))
        return bool(torch.equal(probe(torch.ones(2, 16)), torch.ones(2, 16)))
    except (AttributeError, RuntimeError, TypeError):
        return False
