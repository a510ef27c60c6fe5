"""A compact Llama-architecture transformer whose layers can be run span by span.

RMSNorm, rotary positions, grouped-query attention, SwiGLU. A layer is told how to attend, so that training (causal,
whole sequences) and decoding (over a cache, `cache.py`) share every other line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.norm import decoding_norm
from hispec_sim.models.ranking import TokenRanking
from hispec_sim.models.rope import rotate_, rotations

Attend = Callable[[Tensor, Tensor], Tensor]
"""(queries, keys and values) -> mixed values. Queries and mixed values are of shape (batch, tokens, n_heads, head_dim);
keys and values stand one behind the other: (batch, tokens, 2 n_kv_heads, head_dim)."""

Map = Callable[[Tensor], Tensor]
"""(..., in) -> (..., out)"""

NormOf = Callable[[nn.RMSNorm], Map]
"""The form that a norm is to take."""


@dataclass(frozen=True, slots=True)
class LayerMaths:
    """What a layer computes, taken out of its modules: in a small network calling them costs more than what they do.
    Holds the layer's weights as they were when it was taken; those may change in place, but not be replaced."""

    attention_norm: Map
    qkv: Map
    output: Map
    mlp_norm: Map
    gate_up: Map
    down: Map
    n_heads: int
    n_kv_heads: int
    head_dim: int

    def __call__(self, x: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """x: (batch, tokens, hidden_size); turn: rotations of the tokens' positions, (batch or 1, tokens, 1, pairs)."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, tokens, -1, self.head_dim)
        rotate_(qkv[:, :, : self.n_heads + self.n_kv_heads], turn)
        mixed = attend(qkv[:, :, : self.n_heads], qkv[:, :, self.n_heads :])
        x = x + self.output(mixed.flatten(2))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Layer(nn.Module):
    """One transformer layer. Query, key and value projections are one matrix, gate and up projections another."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        shape = config.shape
        self.heads = (shape.n_heads, shape.n_kv_heads, shape.n_kv_heads)
        self.head_dim = shape.head_dim
        self.attention_norm = nn.RMSNorm(shape.hidden_size, eps=config.norm_eps)
        self.qkv = nn.Linear(shape.hidden_size, sum(self.heads) * shape.head_dim, bias=False)
        self.output = nn.Linear(shape.n_heads * shape.head_dim, shape.hidden_size, bias=False)
        self.mlp_norm = nn.RMSNorm(shape.hidden_size, eps=config.norm_eps)
        self.gate_up = nn.Linear(shape.hidden_size, 2 * shape.intermediate_size, bias=False)
        self.down = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def maths(self, norm_of: NormOf | None = None) -> LayerMaths:
        """What the layer computes with its present weights; `norm_of` gives its norms another form."""
        norm_of = norm_of or bare
        return LayerMaths(
            attention_norm=norm_of(self.attention_norm),
            qkv=bare(self.qkv),
            output=bare(self.output),
            mlp_norm=norm_of(self.mlp_norm),
            gate_up=bare(self.gate_up),
            down=bare(self.down),
            n_heads=self.heads[0],
            n_kv_heads=self.heads[1],
            head_dim=self.head_dim,
        )

    def forward(self, x: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """As `LayerMaths`."""
        return self.maths()(x, turn, attend)


def bare(module: nn.Module) -> Map:
    """The function of a module, without the module around it."""
    if type(module) is nn.RMSNorm:
        return partial(torch.rms_norm, normalized_shape=module.normalized_shape, weight=module.weight, eps=module.eps)
    if type(module) is nn.Linear:
        return partial(F.linear, weight=module.weight)
    return module.forward


class Llama(nn.Module):
    """The network: embedding, layers, final norm, LM head (tied to the embedding or its own)."""

    rotations: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        shape = config.shape
        self.config = config
        self.embedding = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(shape.n_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=config.norm_eps)
        self.head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        if shape.tied_embedding:
            self.head.weight = self.embedding.weight
        self.exit_heads = nn.ModuleDict()  # trained read-outs of exits, by exit layer as text; see exits.py
        self.token_ranking: TokenRanking | None = None  # what shortlists are cut from, if known
        self.cuda_graphs = True  # on CUDA, capture forwards that come back; see graphs.py
        self.register_buffer("rotations", rotations(config, config.max_positions), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Llama:
        """Moves or casts everything but the rotations, which only move: they have no meaning in another type."""
        kept, self._buffers["rotations"] = self.rotations, None
        super()._apply(fn, recurse)
        if kept.is_meta:
            kept = rotations(self.config, self.config.max_positions)
        self.rotations = kept.to(self.embedding.weight.device)
        return self

    def span(self, x: Tensor, first_layer: int, last_layer: int, turn: Tensor, attend: Attend) -> Tensor:
        """Hidden states (batch, tokens, hidden_size) after layers (first_layer, last_layer]."""
        for index in range(first_layer, last_layer):
            x = self.layers[index](x, turn, attend)
        return x

    def read_by(self, exit_layer: int | None = None) -> tuple[nn.RMSNorm, nn.Linear]:
        """The norm and the LM head that an exit is read out by: the network's own, or the exit head's."""
        name = str(exit_layer)
        own = self.exit_heads[name].reads_by if name in self.exit_heads else None
        return cast(tuple[nn.RMSNorm, nn.Linear], own or (self.norm, self.head))

    def read_out(self, x: Tensor, exit_layer: int | None = None) -> Tensor:
        """Next-token logits (..., vocab_size) of hidden states at any depth, behind the exit's head if it has one."""
        norm, head = self.read_by(exit_layer)
        return head(norm(x))

    def reading_out(self, exit_layer: int | None = None) -> Map:
        """`read_out` for decoding: taken out of its modules, with its present weights, as `LayerMaths` is."""
        own_norm, own_head = self.read_by(exit_layer)
        norm, head = decoding_norm(own_norm), bare(own_head)
        return lambda x: head(norm(x))

    def forward(self, tokens: Tensor, exit_layer: int | None = None) -> Tensor:
        """Logits of whole sequences, (batch, tokens) -> (batch, tokens, vocab_size), read out at `exit_layer`, through
        its exit head if one is attached."""
        depth = self.config.shape.n_layers if exit_layer is None else exit_layer
        turn = self.rotations[None, : tokens.shape[1], None]
        x = self.span(self.embedding(tokens), 0, depth, turn, attend_causally)
        if str(depth) in self.exit_heads:
            x = self.exit_heads[str(depth)](x, turn, attend_causally)
        return self.read_out(x, depth)


def attend_causally(queries: Tensor, keys_values: Tensor) -> Tensor:
    """Attention over whole sequences, each token to those before it and itself."""
    keys, values = keys_values.chunk(2, dim=2)
    q, k, v = (x.transpose(1, 2) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def dtype_of(network: Llama) -> torch.dtype:
    """The type that the network computes in."""
    return network.embedding.weight.dtype
