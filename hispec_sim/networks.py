"""Network architectures: the shapes from which bytes, FLOPs and layer counts follow."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files

import yaml

from hispec_sim.errors import InputError


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Shape of a Llama-architecture decoder (RMSNorm, RoPE, grouped-query attention, SwiGLU)."""

    name: str
    n_layers: int
    hidden_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_embedding: bool = False

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if key not in ("name", "tied_embedding") and (not isinstance(value, int) or value < 1):
                raise InputError(f"network {self.name}: {key} must be a whole number of at least 1, got {value!r}")
        if self.n_heads % self.n_kv_heads:
            raise InputError(
                f"network {self.name}: n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads})"
            )

    @property
    def layer_parameters(self) -> int:
        """Weights of one transformer layer's four matrix products (norms, under 0.1 %, left out)."""
        attention = self.hidden_size * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def head_parameters(self) -> int:
        """Weights of the LM head: (hidden_size, vocab_size)."""
        return self.hidden_size * self.vocab_size


@cache
def known_networks() -> dict[str, NetworkSpec]:
    """Networks that ship with the product, by name (`data/networks.yaml`)."""
    text = files("hispec_sim").joinpath("data/networks.yaml").read_text(encoding="utf-8")
    return {name: NetworkSpec(name=name, **shape) for name, shape in yaml.safe_load(text).items()}
