"""A compact Llama-architecture transformer whose layers can be run span by span.

RMSNorm, rotary positions, grouped-query attention, SwiGLU. A layer is told how to attend, so that training (causal,
whole sequences) and decoding (over a cache, `cache.py`) share every other line.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.rope import rotate, rotations

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries, keys, values) -> mixed values; all of shape (batch, tokens, heads, head_dim)."""


class Layer(nn.Module):
    """One transformer layer. Query, key and value projections are one matrix, gate and up projections another."""

    def __init__(self, config: LlamaConfig, index: int) -> None:
        super().__init__()
        shape = config.shape
        self.index = index
        self.heads = (shape.n_heads, shape.n_kv_heads, shape.n_kv_heads)
        self.head_dim = shape.head_dim
        self.attention_norm = nn.RMSNorm(shape.hidden_size, eps=config.norm_eps)
        self.qkv = nn.Linear(shape.hidden_size, sum(self.heads) * shape.head_dim, bias=False)
        self.output = nn.Linear(shape.n_heads * shape.head_dim, shape.hidden_size, bias=False)
        self.mlp_norm = nn.RMSNorm(shape.hidden_size, eps=config.norm_eps)
        self.gate_up = nn.Linear(shape.hidden_size, 2 * shape.intermediate_size, bias=False)
        self.down = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """x: (batch, tokens, hidden_size); turn: rotations of the tokens' positions."""
        n_heads, n_kv_heads, _ = self.heads
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (-1, self.head_dim))
        turned = rotate(qkv[..., : n_heads + n_kv_heads, :], turn)
        mixed = attend(
            self.index, turned[..., :n_heads, :], turned[..., n_heads:, :], qkv[..., n_heads + n_kv_heads :, :]
        )
        x = x + self.output(mixed.flatten(-2))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    """The network: embedding, layers, final norm, LM head (tied to the embedding or its own)."""

    rotations: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        shape = config.shape
        self.config = config
        self.embedding = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(shape.n_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=config.norm_eps)
        self.head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        if shape.tied_embedding:
            self.head.weight = self.embedding.weight
        self.exit_heads = nn.ModuleDict()  # trained read-outs of exits, by exit layer as text; see exits.py
        self.register_buffer("rotations", rotations(config, config.max_positions), persistent=False)

    def span(self, x: Tensor, first_layer: int, last_layer: int, turn: Tensor, attend: Attend) -> Tensor:
        """Hidden states (batch, tokens, hidden_size) after layers (first_layer, last_layer]."""
        for index in range(first_layer, last_layer):
            x = self.layers[index](x, turn, attend)
        return x

    def read_out(self, x: Tensor) -> Tensor:
        """Next-token logits (..., vocab_size) of hidden states at any depth: the final norm and the LM head."""
        return self.head(self.norm(x))

    def forward(self, tokens: Tensor, exit_layer: int | None = None) -> Tensor:
        """Logits of whole sequences, (batch, tokens) -> (batch, tokens, vocab_size), read out at `exit_layer`, through
        its exit head if one is attached."""
        depth = self.config.shape.n_layers if exit_layer is None else exit_layer
        turn = self.rotations[None, : tokens.shape[1], None]
        x = self.span(self.embedding(tokens), 0, depth, turn, attend_causally)
        if str(depth) in self.exit_heads:
            x = self.exit_heads[str(depth)](x, turn, attend_causally)
        return self.read_out(x)


def attend_causally(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention over whole sequences, each token to those before it and itself."""
    q, k, v = (x.transpose(1, 2) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def dtype_of(network: Llama) -> torch.dtype:
    """The type that the network computes in."""
    return network.embedding.weight.dtype
