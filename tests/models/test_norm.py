"""The norm of decoding is torch's, whatever the size of what it is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hispec_sim.models.norm import decoding_norm


def norm_of(size: int, dtype: torch.dtype = torch.float32) -> nn.RMSNorm:
    torch.manual_seed(size)
    module = nn.RMSNorm(size, eps=1e-5)
    nn.init.uniform_(module.weight, -2, 2)
    return module.to(dtype)


@pytest.mark.parametrize("size", [3, 128, 576])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 3e-3, 1.0, 1e15])
@torch.inference_mode()
def test_it_is_that_of_torch(size: int, scale: float) -> None:
    """Among them states so small that the epsilon decides."""
    module = norm_of(size)
    for shape in ((1, 1, size), (4, 13, size), (5, size)):
        x = scale * torch.randn(shape)
        torch.testing.assert_close(decoding_norm(module)(x), module(x), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_weights_may_change_in_place() -> None:
    module = norm_of(8)
    norm, x = decoding_norm(module), torch.randn(2, 8)
    module.weight.mul_(3)
    torch.testing.assert_close(norm(x), module(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.inference_mode()
def test_other_types_are_left_to_torch(dtype: torch.dtype) -> None:
    """Bit for bit: half precision must be squared in single precision, as it is there."""
    module = norm_of(64, dtype)
    x = 100 * torch.randn(3, 64).to(dtype)
    assert torch.equal(decoding_norm(module)(x), module(x))
