"""Products of a few tokens with a matrix, by how the matrix lies in memory."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn

FEW_TOKENS = 8
"""The number of tokens that oneDNN's layout is made for; made for 1, it loses its advantage at more."""

WIDE = 4
"""How many tokens a widened product multiplies."""


class Layout(Enum):
    """How a matrix lies in memory, and whether one or two tokens are multiplied as four."""

    PLAIN = "plain"
    TRANSPOSED = "transposed"
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


Linear = nn.Linear | TransposedLinear | PackedLinear


def laid_out(weight: Tensor, layout: Layout) -> Linear:
    """The linear map of a matrix (out, in), laid out anew unless it is to be plain."""
    if layout is Layout.TRANSPOSED:
        return TransposedLinear(weight)
    if layout is not Layout.PLAIN:
        return PackedLinear(weight, widens=layout is Layout.WIDENED)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def layout_of(linear: nn.Module) -> Layout:
    """How the matrix of a linear map lies."""
    if isinstance(linear, PackedLinear):
        return Layout.WIDENED if linear.widens else Layout.PACKED
    return Layout.TRANSPOSED if isinstance(linear, TransposedLinear) else Layout.PLAIN


def plain_weight(linear: nn.Module) -> Tensor:
    """The matrix (out, in) of a linear map, however it lies; a copy if it is packed."""
    if isinstance(linear, PackedLinear):
        return linear.packed.to_dense()
    weight = linear.transposed.t() if isinstance(linear, TransposedLinear) else linear.weight
    assert isinstance(weight, Tensor)
    return weight.detach()
