"""What defines a network beyond its shape: positions, normalisation, and which exits it can be read out at."""

from __future__ import annotations

from dataclasses import dataclass

from hispec_sim.errors import InputError
from hispec_sim.networks import NetworkSpec


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3's stretching of rotary frequencies (Grattafiori et al. 2024, arXiv 2407.21783).

    Wavelengths above `original_positions / low_frequency_factor` are stretched by `factor`, those below
    `original_positions / high_frequency_factor` are kept, and those between are blended.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """A Llama-architecture network."""

    shape: NetworkSpec
    max_positions: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        name = self.shape.name
        if self.max_positions < 1:
            raise InputError(f"network {name}: max_positions must be at least 1, got {self.max_positions}")
        if self.shape.head_dim % 2:
            raise InputError(f"network {name}: head_dim must be even for rotary positions, got {self.shape.head_dim}")
        if not self.rope_theta > 0 or not self.norm_eps > 0:
            raise InputError(f"network {name}: rope_theta and norm_eps must be above 0")
