"""Products of a few tokens with a matrix, by how the matrix lies in memory."""

from __future__ import annotations

import functools
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import _profiler_enabled  # type: ignore[attr-defined]
from torch.nn import functional

Floats = NDArray[np.float32]

FEW_TOKENS = 8
"""The number of tokens that oneDNN's layout is made for; made for 1, it loses its advantage at more."""

WIDE = 4
"""How many tokens a widened product multiplies."""


BLOCK = 32
"""So many outputs make a block: two cache lines, which one pass over the inputs adds up in registers."""

MULTIPLIED_AT_ONCE = 1_000_000
"""Up to so many multiplications numpy's OpenBLAS takes both factors from where they lie; for more it copies them first,
and would copy the tokens again for every block."""


class Layout(Enum):
    """How a matrix lies in memory, and whether one or two tokens are multiplied as four."""

    PLAIN = "plain"
    TRANSPOSED = "transposed"
    BLOCKED = "blocked"
    PACKED = "packed"
    WIDENED = "widened"


class TransposedLinear(nn.Module):
    """x (..., in) -> (..., out), without bias; forward only. What a token is multiplied with lies side by side for all
    outputs: many small products, each for a stretch of outputs, in place of one long sum for each output."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.transposed = weight.detach().t().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        features, outputs = self.transposed.shape
        return torch.mm(x.reshape(-1, features), self.transposed).view(*x.shape[:-1], outputs)


class BlockedLinear(nn.Module):
    """x (..., in) -> (..., out), without bias; forward only. Transposed in blocks of few outputs, which numpy
    multiplies one after the other: memory is read once and in one stretch, for several tokens too."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        one_thread_per_block()
        self.outputs, self.features = weight.shape
        missing = -self.outputs % BLOCK
        padded = functional.pad(weight.detach(), (0, 0, 0, missing)) if missing else weight.detach()
        self.blocks = padded.view(-1, BLOCK, self.features).transpose(1, 2).contiguous()
        """(blocks, in, BLOCK)"""
        self._matrices = self.blocks.numpy()
        self._cut = bool(missing)

    def forward(self, x: Tensor) -> Tensor:
        if _profiler_enabled():  # an operator costs some microseconds, but torch's profiler sees it
            made: Tensor = torch.ops.hispec.blocked_product(x, self.blocks)
        else:
            made = torch.from_numpy(blocked_product(x.numpy(), self._matrices))
        return made[..., : self.outputs] if self._cut else made


def blocked_product(x: Floats, blocks: Floats) -> Floats:
    """(..., in) and (blocks, in, BLOCK) -> (..., blocks x BLOCK)."""
    n_blocks, features, _ = blocks.shape
    tokens = x.reshape(-1, features)
    made = np.empty((len(tokens), n_blocks, BLOCK), np.float32)
    by_block, at_once = made.transpose(1, 0, 2), max(1, MULTIPLIED_AT_ONCE // (features * BLOCK))
    for first in range(0, len(tokens), at_once):
        np.matmul(tokens[first : first + at_once], blocks, out=by_block[:, first : first + at_once])
    return made.reshape(*x.shape[:-1], -1)


_LIBRARY = torch.library.Library("hispec", "DEF")
_LIBRARY.define("blocked_product(Tensor x, Tensor blocks) -> Tensor")
_LIBRARY.impl("blocked_product", lambda x, blocks: torch.from_numpy(blocked_product(x.numpy(), blocks.numpy())), "CPU")


@functools.cache
def one_thread_per_block() -> None:
    """Have numpy's OpenBLAS multiply with one thread, for good: sharing out a product as small as a block takes longer
    than making it, and would take more threads than torch was given."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    ThreadpoolController().select(internal_api="openblas").limit(limits=1)


class PackedLinear(nn.Module):
    """x (..., in) -> (..., out), without bias; forward only. By oneDNN, in blocks made for a few tokens."""

    def __init__(self, weight: Tensor, *, widens: bool = False) -> None:
        """`widens`: whether one or two tokens are multiplied as four."""
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), FEW_TOKENS)
        self.widens = widens

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[-2]
        if self.widens and tokens <= WIDE // 2 and x.numel() == tokens * x.shape[-1]:
            return self._product(x.repeat_interleave(WIDE // tokens, dim=-2))[..., :: WIDE // tokens, :]
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        return product


LaidOut = TransposedLinear | BlockedLinear | PackedLinear
Linear = nn.Linear | LaidOut


def laid_out(weight: Tensor, layout: Layout) -> Linear:
    """The linear map of a matrix (out, in), laid out anew unless it is to be plain."""
    if layout is Layout.TRANSPOSED:
        return TransposedLinear(weight)
    if layout is Layout.BLOCKED:
        return BlockedLinear(weight)
    if layout is not Layout.PLAIN:
        return PackedLinear(weight, widens=layout is Layout.WIDENED)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def layout_of(linear: nn.Module) -> Layout:
    """How the matrix of a linear map lies."""
    if isinstance(linear, PackedLinear):
        return Layout.WIDENED if linear.widens else Layout.PACKED
    if isinstance(linear, BlockedLinear):
        return Layout.BLOCKED
    return Layout.TRANSPOSED if isinstance(linear, TransposedLinear) else Layout.PLAIN


def plain_weight(linear: nn.Module) -> Tensor:
    """The matrix (out, in) of a linear map, however it lies; a copy if it is packed or in blocks."""
    if isinstance(linear, PackedLinear):
        return linear.packed.to_dense()
    if isinstance(linear, BlockedLinear):
        return linear.blocks.transpose(1, 2).reshape(-1, linear.features)[: linear.outputs]
    weight = linear.transposed.t() if isinstance(linear, TransposedLinear) else linear.weight
    assert isinstance(weight, Tensor)
    return weight.detach()
