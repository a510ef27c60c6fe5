"""What one GPU of a tensor-parallel group holds of a network: the shapes of its kernels."""

from __future__ import annotations

from dataclasses import dataclass

from hispec_sim.errors import InputError
from hispec_sim.networks import NetworkSpec


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `tensor_parallel` equal parts of every layer. InputError when the heads do not divide."""

    network: NetworkSpec
    tensor_parallel: int

    def __post_init__(self) -> None:
        if self.tensor_parallel < 1 or self.network.n_kv_heads % self.tensor_parallel:
            raise InputError(
                f"network {self.network.name}: its {self.network.n_kv_heads} KV heads do not divide evenly over "
                f"tensor_parallel {self.tensor_parallel}"
            )

    @property
    def heads(self) -> tuple[int, int, int]:
        """(query heads, KV heads, head dimension)."""
        return (
            self.network.n_heads // self.tensor_parallel,
            self.network.n_kv_heads // self.tensor_parallel,
            self.network.head_dim,
        )

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding and of the LM head."""
        return self.network.vocab_size // self.tensor_parallel

    @property
    def layer_gemms(self) -> tuple[tuple[int, int], ...]:
        """(n, k) of QKV, output, gate and up, down: split by columns, rows, columns, rows."""
        heads, kv_heads, head_dim = self.heads
        hidden, intermediate = self.network.hidden_size, self.network.intermediate_size // self.tensor_parallel
        return (
            ((heads + 2 * kv_heads) * head_dim, hidden),
            (hidden, heads * head_dim),
            (2 * intermediate, hidden),
            (hidden, intermediate),
        )

    @property
    def layer_elementwise(self) -> tuple[tuple[int, int], ...]:
        """(numbers read, numbers written) a token: residual addition with norm, twice, and the gated activation.

        Rotary embedding is part of the attention kernels here.
        """
        norm = (2 * self.network.hidden_size, 2 * self.network.hidden_size)
        intermediate = self.network.intermediate_size // self.tensor_parallel
        return (norm, norm, (2 * intermediate, intermediate))
