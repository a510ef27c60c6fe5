"""A network's layers on whole sequences, the way training wants them: in real numbers, compiled where possible.

`torch.compile` knows no complex numbers, which `Layer` turns positions with; here the same turn is four products.
It needs a C++ compiler; without one the same functions run uncompiled, slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hispec_sim.models.llama import Layer, Llama
from hispec_sim.models.train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Speed:
    """How training computes. It changes the last bits of the result, so a resumed run keeps it."""

    threads: int = 1
    compiled: bool = False
    bfloat16: bool = False
    """Products in bfloat16 (weights, optimizer, losses and the residual stream stay float32)."""

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{threads}, {'' if self.compiled else 'not '}compiled, {'bfloat16' if self.bfloat16 else 'float32'}"

    @staticmethod
    def best(threads: int) -> Speed:
        """What this machine is fastest with: bfloat16 only where the CPU multiplies it in hardware."""
        return Speed(threads, compiled=can_compile(), bfloat16=bool(torch.cpu._is_avx512_bf16_supported()))


def can_compile() -> bool:
    """Whether torch.compile works here: tries a function of one line, some seconds. A compiler may be missing, or the
    headers it needs."""
    try:
        return bool(torch.compile(lambda x: x * 2 + 1)(torch.ones(4))[0] == 3)
    except Exception:  # whatever goes wrong in a compiler, training goes on without it
        return False


class TrainingSpan:
    """Runs chosen layers of a network and keeps the hidden states at chosen exits."""

    def __init__(self, network: Llama, context: int, speed: Speed) -> None:
        self.network = network
        turn = network.rotations[:context, None]
        self._cos, self._sin = turn.real.contiguous(), turn.imag.contiguous()
        self._layer: Callable[..., Tensor] = torch.compile(_layer) if speed.compiled else _layer

    def __call__(self, tokens: Tensor, layers: Sequence[int], exits: Sequence[int]) -> list[Tensor]:
        """Hidden states (batch, tokens, hidden_size) at each of `exits`, ascending exit layers. Only `layers`
        (indices, ascending) run; tokens: (batch, tokens), tokens <= context."""
        x = self.network.embedding(tokens)
        width = tokens.shape[1]
        cos, sin = self._cos[:width], self._sin[:width]
        states, waiting = [], list(exits)
        for index in layers:
            while waiting and waiting[0] <= index:
                states.append(x)
                waiting.pop(0)
            layer = self.network.layers[index]
            assert isinstance(layer, Layer)
            x = self._layer(
                x,
                cos,
                sin,
                layer.heads[0],
                layer.heads[1],
                layer.head_dim,
                layer.attention_norm.eps,
                (layer.attention_norm.weight, layer.qkv.weight, layer.output.weight),
                (layer.mlp_norm.weight, layer.gate_up.weight, layer.down.weight),
            )
        return states + [x] * len(waiting)


def _layer(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    eps: float,
    attention: tuple[Tensor, Tensor, Tensor],
    mlp: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """`Layer.forward` with causal attention."""
    norm, qkv_weight, output = attention
    qkv = F.linear(F.rms_norm(x, norm.shape, norm, eps), qkv_weight).unflatten(-1, (-1, head_dim))
    turned = _rotate(qkv[..., : n_heads + n_kv_heads, :], cos, sin)
    q, k = turned[..., :n_heads, :].transpose(1, 2), turned[..., n_heads:, :].transpose(1, 2)
    v = qkv[..., n_heads + n_kv_heads :, :].transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=n_heads != n_kv_heads)
    x = x + F.linear(mixed.transpose(1, 2).flatten(-2), output)
    norm, gate_up, down = mlp
    gate, up = F.linear(F.rms_norm(x, norm.shape, norm, eps), gate_up).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate) * up, down)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring pairs of x, shape (batch, tokens, heads, head_dim), by cos and sin (tokens, 1, head_dim/2)."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).type_as(x)


def new_network(recipe: Recipe) -> Llama:
    """A network with random weights from the recipe's seed. Projections that write into the residual stream start
    smaller by sqrt(2 n_layers) (Radford et al. 2019), so that the stream does not grow with depth."""
    network = Llama(recipe.config())
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
                continue
            scale = 0.05 if name.startswith("embedding") else 0.5 * parameter.shape[1] ** -0.5
            if name.endswith(("output.weight", "down.weight")):
                scale /= (2 * recipe.n_layers) ** 0.5
            parameter.normal_(std=scale, generator=generator)
    return network
