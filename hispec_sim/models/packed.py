"""Weights laid out for fast decoding on CPUs, by oneDNN, where that is faster than torch's own product.

torch's own product of a few tokens with a matrix reads it in an order made for many tokens. Packed once for few, the
same product takes half the time for 2 to 16 tokens on some processors, which is what verifying drafts is; on others it
takes longer. So each shape of matrix is tried, from memory as in decoding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from enum import Enum

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

TRIED_TOKENS = (1, 4)
"""Drafting is of one token, verifying of a few."""
TRIED_AT_ONCE = 8
"""Matrices of one shape, of as many layers."""
TRIALS, WORTH = 5, 0.95
"""A layout is tried so often, and the least time counts: others may use the processor too. Any but the plain one must
take at most this share of the time."""
FORGOTTEN_BYTES = 1 << 24
"""Reading so much between two trials leaves nothing of a matrix in a core's own caches, as a pass through other layers
does. A layout that is faster only from there (128 x 2,048 on a Xeon) is slower in decoding."""


class Layout(Enum):
    """How a matrix lies in memory, and whether one or two tokens are multiplied as four."""

    PLAIN = "plain"
    PACKED = "packed"
    WIDENED = "widened"


class PackedLinear(nn.Module):
    """x (..., in) -> (..., out), without bias; forward only."""

    def __init__(self, weight: Tensor, *, widens: bool = False) -> None:
        """`widens`: whether one or two tokens are multiplied as four."""
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), FEW_TOKENS)
        self.in_features, self.widens = weight.shape[1], widens

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
    """The same network, its large matrices packed in place where that is faster: on a CPU, in fp32, if this torch can.

    A packed matrix replaces the plain one, so memory stays the same; only a head tied to the embedding becomes a matrix
    of its own. Logits change in the last digits. A packed network can neither be trained nor saved.
    """
    if network.embedding.weight.device.type != "cpu" or dtype_of(network) != torch.float32 or not _can_pack():
        return network
    places = [  # and not the matrices themselves, which would all stay until the last is packed
        (module, name) for module in network.modules() for name, child in module.named_children() if _is_large(child)
    ]
    fastest = _fastest_layouts([getattr(module, name).weight for module, name in places])
    for module, name in places:
        shape = getattr(module, name).weight.shape
        if fastest[shape] is not Layout.PLAIN:
            setattr(module, name, PackedLinear(getattr(module, name).weight, widens=fastest[shape] is Layout.WIDENED))
            give_back()
    return network


def _fastest_layouts(weights: Sequence[Tensor]) -> dict[torch.Size, Layout]:
    """The layout for each shape among the matrices."""
    of_shape: dict[torch.Size, list[Tensor]] = {}
    for weight in weights:
        of_shape.setdefault(weight.shape, []).append(weight)
    return {shape: fastest_layout(each[:TRIED_AT_ONCE]) for shape, each in of_shape.items()}


def fastest_layout(weights: Sequence[Tensor]) -> Layout:
    """The layout in which matrices (out, in) of one shape, of several layers, take least for one token and for a few,
    either counting the same. A tie is plain."""
    plain, packed = [linear_of(weight) for weight in weights], [PackedLinear(weight) for weight in weights]
    others = torch.zeros(FORGOTTEN_BYTES // weights[0].element_size())
    tokens = [torch.ones(1, n, weights[0].shape[1]) for n in TRIED_TOKENS]
    layouts = list(Layout) if weights[0].numel() >= WIDENED_WEIGHTS else [Layout.PLAIN, Layout.PACKED]
    least_s = {layout: [math.inf] * len(tokens) for layout in layouts}
    for _ in range(TRIALS):
        for layout in layouts:
            for module in packed:
                module.widens = layout is Layout.WIDENED
            products: Sequence[nn.Module] = plain if layout is Layout.PLAIN else packed
            for place, x in enumerate(tokens):
                others.add_(1)
                began_s = time.perf_counter()
                for product in products:
                    product(x)
                least_s[layout][place] = min(least_s[layout][place], time.perf_counter() - began_s)
    best = Layout.PACKED
    if Layout.WIDENED in layouts and least_s[Layout.WIDENED][0] <= WORTH * least_s[Layout.PACKED][0]:
        best = Layout.WIDENED
    relative = sum(mine / its for mine, its in zip(least_s[best], least_s[Layout.PLAIN], strict=True))
    return best if relative <= WORTH * len(tokens) else Layout.PLAIN


def linear_of(weight: Tensor) -> nn.Linear:
    """A plain linear map with this matrix (out, in)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


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
