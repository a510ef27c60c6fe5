"""RMSNorm for decoding."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def decoding_norm(module: nn.RMSNorm) -> Callable[[Tensor], Tensor]:
    """What the module computes with its present weights, (..., size) -> (..., size); these may change in place.

    On a CPU in single precision it is x w sqrt(size) / hypot(|x|, sqrt(size eps)): four kernels, where `torch.rms_norm`
    runs seven and makes types equal in between. For a few tokens to start them takes longer than what they do.
    """
    weight, eps, (size,) = module.weight.detach(), module.eps, module.normalized_shape
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or eps is None:
        return partial(torch.rms_norm, normalized_shape=[size], weight=weight, eps=eps)
    nothing, floor, scale = torch.zeros(1), torch.tensor(math.sqrt(size * eps)), math.sqrt(size)

    def norm(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.addcdiv(nothing, x * weight, length.hypot_(floor), value=scale)

    return norm
