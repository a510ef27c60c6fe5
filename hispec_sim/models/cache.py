"""Static caches of one network, and the forward of one span of layers over them.

A cache has room for `slots` sequences of `max_tokens` tokens: keys and values of every layer, and hidden states at the
exits, where a deeper span resumes. Nothing is ever cut out: a token attends to positions up to its own, so entries
behind the accepted text are never seen before they are written anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hispec_sim.errors import InputError
from hispec_sim.models.llama import Llama, dtype_of


@dataclass(frozen=True, slots=True)
class Piece:
    """What one sequence contributes to a forward: `tokens` query tokens from `position` on, the last `logits` of
    which are read out. `token_ids` are needed where the span begins at the embedding."""

    slot: int
    position: int
    tokens: int
    logits: int
    token_ids: Sequence[int] = ()


class CachedNetwork:
    """A network with its caches, for up to `slots` sequences at once."""

    def __init__(self, network: Llama, *, slots: int, max_tokens: int, exits: Sequence[int]) -> None:
        shape = network.config.shape
        if max_tokens > network.config.max_positions:
            raise InputError(
                f"network {shape.name} has {network.config.max_positions} positions, {max_tokens} are asked for; "
                "shorten the prompt or the output"
            )
        device, dtype = network.embedding.weight.device, dtype_of(network)
        self.network = network
        self.slots = slots
        kv_shape = (shape.n_layers, 2, slots, max_tokens, shape.n_kv_heads, shape.head_dim)
        self._kv = torch.zeros(kv_shape, device=device, dtype=dtype)
        self._hidden = {
            exit_layer: torch.zeros(slots, max_tokens, shape.hidden_size, device=device, dtype=dtype)
            for exit_layer in exits
            if exit_layer < shape.n_layers
        }

    @torch.inference_mode()
    def forward(self, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> Tensor | None:
        """Run layers (first_layer, last_layer] for all pieces at once.

        Returns the logits of all read-out rows, (sum of pieces' logits, vocab_size), piece after piece, or None if
        there are none. Raises KeyError when `first_layer` is no exit whose hidden states are kept.
        """
        batch = _Batch(pieces, self._kv, self.slots)
        x = self._input(first_layer, pieces, batch)
        turn = self.network.rotations[batch.positions][:, :, None]
        x = self.network.span(x, first_layer, last_layer, turn, batch.attend)
        if last_layer in self._hidden:
            batch.keep(self._hidden[last_layer], x)
        if not any(piece.logits for piece in pieces):
            return None
        rows = [x[i, piece.tokens - piece.logits : piece.tokens] for i, piece in enumerate(pieces)]
        return self.network.read_out(rows[0] if len(rows) == 1 else torch.cat(rows))

    def _input(self, first_layer: int, pieces: Sequence[Piece], batch: _Batch) -> Tensor:
        if first_layer > 0:
            return self._hidden[first_layer][batch.slots[:, None], batch.positions]
        padded = [[*piece.token_ids, *[0] * (batch.width - piece.tokens)] for piece in pieces]
        return self.network.embedding(torch.tensor(padded, device=self._kv.device))


class _Batch:
    """Where the pieces of one forward stand in the cache. Shorter pieces are padded at their last position."""

    def __init__(self, pieces: Sequence[Piece], kv: Tensor, slots: int) -> None:
        device = kv.device
        self.kv = kv
        self.width = max(piece.tokens for piece in pieces)
        self.context = max(piece.position + piece.tokens for piece in pieces)
        tokens = torch.tensor([piece.tokens for piece in pieces], device=device)
        offsets = torch.arange(self.width, device=device).minimum(tokens[:, None] - 1)
        self.positions = torch.tensor([piece.position for piece in pieces], device=device)[:, None] + offsets
        self.slots = torch.tensor([piece.slot for piece in pieces], device=device)
        self.single = pieces[0] if len(pieces) == 1 else None
        self.all_slots = [piece.slot for piece in pieces] == list(range(slots))
        self.rows = torch.cat([torch.arange(p.tokens, device=device) + i * self.width for i, p in enumerate(pieces)])
        self.row_slots = self.slots.repeat_interleave(tokens)
        self.row_positions = self.positions.flatten()[self.rows]
        self.mask = None
        if len(pieces) > 1 or self.width > 1:
            seen = torch.arange(self.context, device=device) <= self.positions[..., None]
            self.mask = seen[:, None]

    def keep(self, cache: Tensor, x: Tensor) -> None:
        """Write (batch, tokens, ...) into a cache of shape (slots, max_tokens, ...), padding left out."""
        if self.single is not None:
            piece = self.single
            cache[piece.slot, piece.position : piece.position + piece.tokens] = x[0]
        else:
            cache[self.row_slots, self.row_positions] = x.flatten(0, 1)[self.rows]

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of each sequence's query tokens to its own cache, up to their positions."""
        key_cache, value_cache = self.kv[layer]
        self.keep(key_cache, keys)
        self.keep(value_cache, values)
        k, v = (self._rows_of(cache).transpose(1, 2) for cache in (key_cache, value_cache))
        grouped = queries.shape[2] != keys.shape[2]  # asking for groups costs time even where each has one head
        mixed = F.scaled_dot_product_attention(queries.transpose(1, 2), k, v, attn_mask=self.mask, enable_gqa=grouped)
        return mixed.transpose(1, 2)

    def _rows_of(self, cache: Tensor) -> Tensor:
        seen = cache[:, : self.context]
        if self.single is not None:
            return seen[self.single.slot : self.single.slot + 1]
        return seen if self.all_slots else seen[self.slots]
