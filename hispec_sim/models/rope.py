"""Rotary positions (Su et al. 2021, arXiv 2104.09864), on neighbouring pairs of a head's dimensions.

Hugging Face checkpoints rotate dimension i with dimension i + head_dim / 2 instead; loading reorders the rows of the
query and key projections, after which both are the same function.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.memory import enough_memory

AT_ONCE = 1 << 14
"""Positions whose angles are worked out at once: in double precision that takes four times the memory of the result."""


def rotations(config: LlamaConfig, positions: int) -> Tensor:
    """Unit complex numbers e^(i p f), complex64 of shape (positions, head_dim / 2), always in main memory. Raises
    InputError if that does not suffice."""
    shape = config.shape
    with enough_memory(
        lambda: (f"rotations of {positions} positions of network {shape.name}", positions * shape.head_dim // 2 * 8),
        "give the network fewer positions (max_position_embeddings, in a GGUF file llama.context_length)",
    ):
        frequency = _frequencies(config)
        table = torch.empty(positions, len(frequency), dtype=torch.complex64, device="cpu")
        for first in range(0, positions, AT_ONCE):
            some = torch.arange(first, min(first + AT_ONCE, positions), dtype=torch.float64, device="cpu")
            angle = torch.outer(some, frequency)
            table[first : first + AT_ONCE] = torch.polar(torch.ones_like(angle), angle)
    return table


def _frequencies(config: LlamaConfig) -> Tensor:
    """By how much each pair of a head's dimensions turns from one position to the next."""
    half = torch.arange(0, config.shape.head_dim, 2, dtype=torch.float64, device="cpu")
    frequency = config.rope_theta ** -(half / config.shape.head_dim)
    scaling = config.rope_scaling
    if scaling is not None:
        wavelength = 2 * math.pi / frequency
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        kept = ((scaling.original_positions / wavelength - low) / (high - low)).clamp(0, 1)
        frequency = (1 - kept) * frequency / scaling.factor + kept * frequency
    return frequency


def rotate_(x: Tensor, turn: Tensor) -> None:
    """Turn x, of shape (batch, tokens, heads, head_dim), in place by `turn`, of shape (batch or 1, tokens, 1,
    head_dim / 2). Half precision turns in single precision and is rounded once."""
    pairs = x.view(*x.shape[:3], -1, 2)
    if x.element_size() < 4:
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()) * turn))
    else:
        torch.view_as_complex(pairs).mul_(turn)


def to_neighbours(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder a projection's rows, shape (heads * head_dim, in), from Hugging Face's halves to neighbouring pairs."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape_as(weight)


def to_halves(weight: Tensor, head_dim: int) -> Tensor:
    """The inverse of `to_neighbours`."""
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).reshape_as(weight)
