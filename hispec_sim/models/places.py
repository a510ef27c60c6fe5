"""Where the pieces of one forward stand in the caches: what the layers of a span need to know, and no more.

A cache has the shape (slots, rows, ...): a row for each position, and one more, the last, that takes what padding
writes and is never read. `OneSequence` reaches a cache by slices: nothing is copied, masked or padded in vain.
`ManySequences` reads everything from one tensor of integers: all forwards of one `Form` do the same work on tensors of
the same shapes, whatever the integers are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hispec_sim.models.llama import Attend


@dataclass(frozen=True, slots=True)
class Piece:
    """What one sequence contributes to a forward: `tokens` query tokens from `position` on, the last `logits` of
    which are read out. `token_ids` are needed where the span begins at the embedding."""

    slot: int
    position: int
    tokens: int
    logits: int
    token_ids: Sequence[int] = ()


class OneSequence:
    """The place of a single piece."""

    def __init__(self, piece: Piece, rotations: Tensor, dtype: torch.dtype) -> None:
        """`dtype`: what the network computes in, and so the type of what attention adds where it must not look: given
        truth values, it would make them such numbers in every layer."""
        self._piece = piece
        self._here = slice(piece.position, piece.position + piece.tokens)
        self._slot = slice(piece.slot, piece.slot + 1)
        self.turn = rotations[None, self._here, None]
        self._mask = None
        if piece.tokens > 1:
            unseen = torch.full((piece.tokens, self._here.stop), -torch.inf, dtype=dtype, device=rotations.device)
            self._mask = unseen.triu_(piece.position + 1)

    def embed(self, embedding: Tensor) -> Tensor:
        """The query tokens' rows, (1, tokens, hidden_size), of a matrix (vocab_size, hidden_size). A single token's is
        the matrix's own: do not change it."""
        ids = self._piece.token_ids
        if len(ids) == 1:
            return embedding[None, None, ids[0]]
        return F.embedding(torch.tensor([ids], device=embedding.device), embedding)

    def take(self, cache: Tensor) -> Tensor:
        """What a cache holds at the query tokens: (1, tokens, ...)."""
        return cache[self._slot, self._here]

    def keep(self, cache: Tensor, x: Tensor) -> None:
        """Write x, (1, tokens, ...), to the query tokens' rows."""
        cache[self._slot, self._here] = x

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of x, (1, tokens, hidden_size), that are read out: (logits, hidden_size)."""
        return x[0, self._piece.tokens - self._piece.logits :]

    def attention(self, kv: Tensor) -> Iterable[Attend]:
        """For each layer of a cache of shape (layers, slots, rows, 2 n_kv_heads, head_dim): attention that keeps the
        query tokens' keys and values and sees all up to each."""
        here = kv[:, self._slot, self._here].unbind()
        keys, values = kv[:, self._slot, : self._here.stop].transpose(2, 3).chunk(2, dim=2)
        return map(partial(partial, self._attend), here, keys.unbind(), values.unbind())

    def _attend(self, here: Tensor, keys: Tensor, values: Tensor, queries: Tensor, keys_values: Tensor) -> Tensor:
        here.copy_(keys_values)
        return _mix(queries, keys, values, self._mask)


class Form(NamedTuple):
    """All that decides which work a forward of many sequences is, and nothing that its integers decide: sequences,
    query tokens of the longest, logits of all together, and positions in sight. `whole` says that the sequences are
    those of all slots, in order."""

    sequences: int
    tokens: int
    logits: int
    context: int
    whole: bool

    @staticmethod
    def of(pieces: Sequence[Piece], slots: int) -> Form:
        """The form of some pieces in caches of `slots` sequences."""
        return Form(
            len(pieces),
            max(piece.tokens for piece in pieces),
            sum(piece.logits for piece in pieces),
            max(piece.position + piece.tokens for piece in pieces),
            [piece.slot for piece in pieces] == list(range(slots)),
        )

    def integers(self, pieces: Sequence[Piece], scratch: int) -> list[int]:
        """What `ManySequences` reads. Shorter pieces are padded at their last position; padding writes to the row
        `scratch`."""
        ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        read: list[int] = []
        for i, piece in enumerate(pieces):
            padding = self.tokens - piece.tokens
            mine = range(piece.position, piece.position + piece.tokens)
            ids += [*(piece.token_ids or [0] * piece.tokens), *[0] * padding]
            positions += [*mine, *[mine[-1]] * padding]
            rows += [*mine, *[scratch] * padding]
            end = i * self.tokens + piece.tokens
            read += range(end - piece.logits, end)
        return [*ids, *positions, *rows, *(piece.slot for piece in pieces), *read]


class ManySequences:
    """The place of pieces of several sequences, or of one in a fixed form."""

    def __init__(self, form: Form, integers: Tensor, rotations: Tensor, dtype: torch.dtype) -> None:
        """`integers`: those of `Form.integers`, on the device of the caches; `dtype` as for `OneSequence`."""
        self._form = form
        queries = form.sequences * form.tokens
        ids, positions, rows, self._slots, self._read = integers.split(
            (queries, queries, queries, form.sequences, form.logits)
        )
        by_sequence = (form.sequences, form.tokens)
        self._ids, self._positions, self._rows = (
            ids.view(by_sequence),
            positions.view(by_sequence),
            rows.view(by_sequence),
        )
        self._owners = self._slots[:, None]
        self.turn = rotations[self._positions][:, :, None]
        unseen = torch.arange(form.context, device=integers.device) > self._positions[:, None, :, None]
        self._mask = torch.zeros(unseen.shape, dtype=dtype, device=integers.device).masked_fill_(unseen, -torch.inf)

    def embed(self, embedding: Tensor) -> Tensor:
        """The query tokens' rows, (sequences, tokens, hidden_size), of a matrix (vocab_size, hidden_size)."""
        return F.embedding(self._ids, embedding)

    def take(self, cache: Tensor) -> Tensor:
        """What a cache holds at the query tokens: (sequences, tokens, ...)."""
        return cache[self._owners, self._positions]

    def keep(self, cache: Tensor, x: Tensor) -> None:
        """Write x, (sequences, tokens, ...), to the query tokens' rows."""
        cache[self._owners, self._rows] = x

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of x, (sequences, tokens, hidden_size), that are read out: (logits, hidden_size)."""
        return x.flatten(0, 1)[self._read]

    def attention(self, kv: Tensor) -> Iterable[Attend]:
        """As `OneSequence.attention`."""
        return map(partial(partial, self._attend), kv.unbind())

    def _attend(self, cache: Tensor, queries: Tensor, keys_values: Tensor) -> Tensor:
        self.keep(cache, keys_values)
        seen = cache[:, : self._form.context]
        if not self._form.whole:
            seen = seen[self._slots]
        keys, values = seen.transpose(1, 2).chunk(2, dim=1)
        return _mix(queries, keys, values, self._mask)


Place = OneSequence | ManySequences


def _mix(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries, (batch, tokens, n_heads, head_dim), to keys and values, (batch, n_kv_heads, seen,
    head_dim).

    Query heads that share keys and values are laid out as further query tokens of one head, so that these are read
    once and not copied for each.
    """
    n_kv_heads = keys.shape[1]
    group = queries.shape[2] // n_kv_heads
    if group == 1:
        return F.scaled_dot_product_attention(queries.transpose(1, 2), keys, values, attn_mask=mask).transpose(1, 2)
    q = queries.unflatten(2, (n_kv_heads, group)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    if mask is not None and mask.shape[-2] > 1:
        mask = torch.cat([mask] * group, dim=-2)
    mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    return mixed.unflatten(2, (group, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3)
