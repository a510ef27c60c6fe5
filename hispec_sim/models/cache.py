"""Static caches of one network, and the forward of one span of layers over them.

A cache has room for `slots` sequences of `max_tokens` tokens: keys and values of every layer, and hidden states at the
exits, where a deeper span resumes. Nothing is ever cut out: a token attends to positions up to its own, so entries
behind the accepted text are never seen before they are written anew.

An exit head that is a transformer layer has keys and values of its own. It runs only when its exit is read out, over
all positions that were pushed to the exit since it last ran or that were pushed there anew, from the hidden states
kept at the exit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hispec_sim.errors import InputError
from hispec_sim.models.exits import BlockHead, heads_of
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
    """A network with its caches, for up to `slots` sequences at once. An exit that has an exit head attached is read
    out through it."""

    def __init__(self, network: Llama, *, slots: int, max_tokens: int, exits: Sequence[int]) -> None:
        """`exits`: the exit layers at which spans will end or be read out. Raises InputError if `max_tokens` is more
        than the network has positions."""
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
        self._heads = {exit_layer: head for exit_layer, head in heads_of(network).items() if exit_layer in self._hidden}
        self._blocks = {
            exit_layer: _BlockCache(self._kv.new_zeros(1, *kv_shape[1:]), [0] * slots)
            for exit_layer, head in self._heads.items()
            if isinstance(head, BlockHead)
        }

    @torch.inference_mode()
    def forward(self, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> Tensor | None:
        """Run layers (first_layer, last_layer] for all pieces at once.

        Returns the logits of all read-out rows, (sum of pieces' logits, vocab_size), piece after piece, or None if
        there are none. Raises KeyError when `first_layer` is no exit whose hidden states are kept.
        """
        batch = self._batch(pieces)
        x = self._input(first_layer, pieces, batch)
        turn = self.network.rotations[batch.positions][:, :, None]
        attend = partial(batch.attend, self._kv)
        passed = [exit_layer for exit_layer in sorted(self._blocks) if first_layer < exit_layer < last_layer]
        for stop in (*passed, last_layer):
            x = self.network.span(x, first_layer, stop, turn, attend)
            first_layer = stop
            if stop in self._hidden:
                batch.keep(self._hidden[stop], x)
            if stop in self._blocks:
                self._blocks[stop].forget(pieces)
        if not any(piece.logits for piece in pieces):
            return None
        if last_layer in self._blocks:
            return self.network.read_out(self._through_block(last_layer, pieces, batch, x))
        rows = _read_rows(x, pieces)
        if last_layer in self._heads:
            rows = self._heads[last_layer](rows, turn, attend)
        return self.network.read_out(rows)

    def _through_block(self, exit_layer: int, pieces: Sequence[Piece], batch: _Batch, x: Tensor) -> Tensor:
        """Rows to be read out, after the exit's block has run over every position up to them that it has not seen."""
        block = self._blocks[exit_layer]
        unseen = block.unseen(pieces)
        if [(p.slot, p.position) for p in unseen] != [(p.slot, p.position) for p in pieces]:
            batch = self._batch(unseen)
            x = self._hidden[exit_layer][batch.slots[:, None], batch.positions]
        turn = self.network.rotations[batch.positions][:, :, None]
        x = self._heads[exit_layer](x, turn, partial(batch.attend, block.kv))
        block.remember(unseen)
        return _read_rows(x, unseen)

    def _batch(self, pieces: Sequence[Piece]) -> _Batch:
        return _Batch(pieces, self.slots, self.network, self._kv)

    def _input(self, first_layer: int, pieces: Sequence[Piece], batch: _Batch) -> Tensor:
        if first_layer > 0:
            return self._hidden[first_layer][batch.slots[:, None], batch.positions]
        padded = [[*piece.token_ids, *[0] * (batch.width - piece.tokens)] for piece in pieces]
        return self.network.embedding(torch.tensor(padded, device=self._kv.device))


def _read_rows(x: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """The rows of x, (batch, tokens, hidden_size), that the pieces read out: (sum of logits, hidden_size)."""
    rows = [x[i, piece.tokens - piece.logits : piece.tokens] for i, piece in enumerate(pieces)]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


@dataclass(slots=True)
class _BlockCache:
    """Keys and values of one exit's block, and how many positions of each slot's text they are right for."""

    kv: Tensor
    seen: list[int]

    def forget(self, pieces: Sequence[Piece]) -> None:
        """Note that hidden states have been written anew: what the block made of the old ones is void, and so is what
        follows."""
        for piece in pieces:
            self.seen[piece.slot] = min(self.seen[piece.slot], piece.position)

    def unseen(self, pieces: Sequence[Piece]) -> list[Piece]:
        """What the block must run over for the pieces that are read out."""
        seen = self.seen
        return [Piece(p.slot, seen[p.slot], p.position + p.tokens - seen[p.slot], p.logits) for p in pieces if p.logits]

    def remember(self, pieces: Sequence[Piece]) -> None:
        """Note that the block has run over the pieces."""
        for piece in pieces:
            self.seen[piece.slot] = piece.position + piece.tokens


class _Batch:
    """Where the pieces of one forward stand in the cache. Shorter pieces are padded at their last position."""

    def __init__(self, pieces: Sequence[Piece], slots: int, network: Llama, kv: Tensor) -> None:
        device, shape = kv.device, network.config.shape
        self.group = shape.n_heads // shape.n_kv_heads
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
            unseen = torch.zeros(seen.shape, device=device, dtype=kv.dtype).masked_fill_(~seen, -math.inf)
            self.mask = unseen.repeat(1, self.group, 1)[:, None]

    def keep(self, cache: Tensor, x: Tensor) -> None:
        """Write (batch, tokens, ...) into a cache of shape (slots, max_tokens, ...), padding left out."""
        if self.single is not None:
            piece = self.single
            cache[piece.slot, piece.position : piece.position + piece.tokens] = x[0]
        else:
            cache[self.row_slots, self.row_positions] = x.flatten(0, 1)[self.rows]

    def attend(self, kv: Tensor, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of each sequence's query tokens to its own part of a cache `kv`, up to their positions.

        Query heads that share keys and values are laid out as further query tokens of one head: their keys and values
        are then read once, and not copied for each.
        """
        key_cache, value_cache = kv[layer]
        self.keep(key_cache, keys)
        self.keep(value_cache, values)
        k, v = (self._rows_of(cache).transpose(1, 2) for cache in (key_cache, value_cache))
        if self.group == 1:
            return F.scaled_dot_product_attention(queries.transpose(1, 2), k, v, attn_mask=self.mask).transpose(1, 2)
        q = queries.unflatten(2, (-1, self.group)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return mixed.unflatten(2, (self.group, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3)

    def _rows_of(self, cache: Tensor) -> Tensor:
        seen = cache[:, : self.context]
        if self.single is not None:
            return seen[self.single.slot : self.single.slot + 1]
        return seen if self.all_slots else seen[self.slots]
