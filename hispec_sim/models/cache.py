"""Static caches of one network, and the forward of one span of layers over them.

A cache has room for `slots` sequences of `max_tokens` tokens: keys and values of every layer, and hidden states at the
exits, where a deeper span resumes. Nothing is ever cut out: a token attends to positions up to its own, so entries
behind the accepted text are never seen before they are written anew.

An exit head that is a transformer layer has keys and values of its own. It runs only when its exit is read out, over
all positions that were pushed to the exit since it last ran or that were pushed there anew, from the hidden states
kept at the exit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from hispec_sim.errors import InputError
from hispec_sim.models.exits import BlockHead, heads_of
from hispec_sim.models.graphs import MOST_QUERIES, CudaCapture, Graphs, rounded
from hispec_sim.models.llama import Layer, Llama, attend_causally, dtype_of
from hispec_sim.models.memory import enough_memory
from hispec_sim.models.norm import decoding_norm
from hispec_sim.models.places import Form, ManySequences, OneSequence, Piece, Place
from hispec_sim.models.shortlist import ShortHead

__all__ = ["CachedNetwork", "Piece"]


class CachedNetwork:
    """A network with its caches, for up to `slots` sequences at once. An exit that has an exit head attached is read
    out through it."""

    def __init__(
        self,
        network: Llama,
        *,
        slots: int,
        max_tokens: int,
        exits: Sequence[int],
        shortlists: Mapping[int, int] | None = None,
    ) -> None:
        """`exits`: the exit layers at which spans will end or be read out; `shortlists`: how many of the most frequent
        tokens some of them read out, by exit layer. Raises InputError if `max_tokens` is more than the network has
        positions, a shortlist cannot be had, or memory does not suffice."""
        shape = network.config.shape
        if max_tokens > network.config.max_positions:
            raise InputError(
                f"network {shape.name} has {network.config.max_positions} positions, {max_tokens} are asked for; "
                "shorten the prompt or the output"
            )
        device, dtype = network.embedding.weight.device, dtype_of(network)
        self.network = network
        self.slots, self.max_tokens = slots, max_tokens
        self._embedding = network.embedding.weight.detach()
        self._layers = [cast(Layer, layer).maths(decoding_norm) for layer in network.layers]
        kv_shape = (slots, max_tokens + 1, 2 * shape.n_kv_heads, shape.head_dim)
        self._scratch = max_tokens
        kept = {exit_layer for exit_layer in exits if exit_layer < shape.n_layers}
        heads = {exit_layer: head for exit_layer, head in heads_of(network).items() if exit_layer in kept}
        with_block = [exit_layer for exit_layer, head in heads.items() if isinstance(head, BlockHead)]
        self._heads = {exit_layer: head.maths(decoding_norm) for exit_layer, head in heads.items()}

        def caches() -> tuple[str, int]:
            width = 2 * shape.n_kv_heads * shape.head_dim * (shape.n_layers + len(with_block))
            size = dtype.itemsize * slots * (max_tokens + 1) * (width + shape.hidden_size * len(kept))
            return f"caches of network {shape.name} for {slots} sequences of {max_tokens} tokens", size

        with enough_memory(caches, "decode fewer or shorter sequences at once, or take dtype bf16 or a smaller model"):
            self._kv = torch.zeros(shape.n_layers, *kv_shape, device=device, dtype=dtype)
            self._hidden = {
                exit_layer: torch.zeros(slots, max_tokens + 1, shape.hidden_size, device=device, dtype=dtype)
                for exit_layer in kept
            }
            self._blocks = {
                exit_layer: _BlockCache(self._kv.new_zeros(1, *kv_shape), [0] * slots) for exit_layer in with_block
            }
        self._graphs = Graphs(CudaCapture(device), device) if device.type == "cuda" and network.cuda_graphs else None
        self._plain_read_out = network.reading_out()
        own = {exit_layer: network.reading_out(exit_layer) for exit_layer, head in heads.items() if head.reads_by}
        short = {layer: ShortHead(network, size, layer) for layer, size in (shortlists or {}).items()}
        self._read_outs: dict[int, Callable[[Tensor], Tensor]] = {**own, **short}

    @torch.inference_mode()
    def forward(self, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> Tensor | None:
        """Run layers (first_layer, last_layer] for all pieces at once.

        Returns the logits of all read-out rows, (sum of pieces' logits, vocab_size), piece after piece, or None if
        there are none. Raises KeyError when `first_layer` is no exit whose hidden states are kept, InputError when
        memory runs out; then the caches must not be used on.
        """
        with enough_memory(
            partial(self._largest, pieces),
            "shorten the prompts, decode fewer sequences at once, or take dtype bf16 or a smaller model",
        ):
            return self._forward(first_layer, last_layer, pieces)

    def forget_unread(self, exit_layer: int, pieces: Sequence[Piece]) -> None:
        """Take the block of an exit, if it has one, as having run over all that stands before the pieces: a forward
        then costs what it costs in decoding, wherever its text begins."""
        if exit_layer in self._blocks:
            for piece in pieces:
                self._blocks[exit_layer].seen[piece.slot] = piece.position

    def copy_slot(self, slot: int, other: CachedNetwork, tokens: int) -> None:
        """Let a slot hold what the first slot of another cache of the network holds for its first `tokens` tokens.
        Raises KeyError if that keeps no states of an exit that this one has."""
        self._kv[:, slot, :tokens] = other._kv[:, 0, :tokens]
        for exit_layer, hidden in self._hidden.items():
            hidden[slot, :tokens] = other._hidden[exit_layer][0, :tokens]
        for exit_layer, block in self._blocks.items():
            block.kv[:, slot, :tokens] = other._blocks[exit_layer].kv[:, 0, :tokens]
            block.seen[slot] = min(other._blocks[exit_layer].seen[0], tokens)

    def _largest(self, pieces: Sequence[Piece]) -> tuple[str, int]:
        """What a forward is, and the size in bytes of the largest tensor that it may make on its way."""
        shape, form = self.network.config.shape, Form.of(pieces, self.slots)
        queries = form.sequences * form.tokens
        size = max(
            queries * 2 * shape.intermediate_size,
            queries * shape.n_heads * form.context,
            form.logits * shape.vocab_size,
        )
        what = (
            f"a forward of network {shape.name} for {queries} tokens ({form.sequences} x {form.tokens}), with a tensor"
        )
        return what, self._kv.element_size() * size

    def _forward(self, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> Tensor | None:
        for exit_layer, block in self._blocks.items():
            if first_layer < exit_layer <= last_layer:
                block.forget(pieces)
        span = partial(self._span, first_layer, last_layer)
        if last_layer not in self._blocks:
            return self._run((first_layer, last_layer), span, pieces)
        self._run((first_layer, last_layer), span, [replace(piece, logits=0) for piece in pieces])
        block = self._blocks[last_layer]
        unseen = block.unseen(pieces)
        if not unseen:
            return None
        block.remember(unseen)
        return self._run(last_layer, partial(self._block, last_layer), unseen)

    def _run(self, what: Hashable, work: Callable[[Place], Tensor | None], pieces: Sequence[Piece]) -> Tensor | None:
        """Do the work for the pieces; `what` tells one kind of work from another."""
        rotations, dtype = self.network.rotations, self._kv.dtype
        if self._graphs is None and len(pieces) == 1:
            return work(OneSequence(pieces[0], rotations, dtype))
        form = Form.of(pieces, self.slots)
        if self._graphs is None or form.sequences * form.tokens > MOST_QUERIES:
            integers = torch.tensor(form.integers(pieces, self._scratch), device=self._kv.device)
            return work(ManySequences(form, integers, rotations, dtype))
        fixed = rounded(form, self._scratch)
        return self._graphs.run(
            (what, fixed),
            fixed.integers(pieces, self._scratch),
            lambda integers: work(ManySequences(fixed, integers, rotations, dtype)),
        )

    def _span(self, first_layer: int, last_layer: int, place: Place) -> Tensor | None:
        """Layers (first_layer, last_layer], and the logits of the rows that are read out, unless a block does that."""
        x = place.embed(self._embedding) if first_layer == 0 else place.take(self._hidden[first_layer])
        layers = zip(
            self._layers[first_layer:last_layer], place.attention(self._kv[first_layer:last_layer]), strict=True
        )
        for depth, (layer, attend) in enumerate(layers, start=first_layer + 1):
            x = layer(x, place.turn, attend)
            if depth in self._blocks or (depth == last_layer and depth in self._hidden):
                place.keep(self._hidden[depth], x)
        rows = place.read_rows(x)
        if len(rows) == 0:
            return None
        if last_layer in self._heads:
            rows = self._heads[last_layer](rows, place.turn, attend_causally)
        return self._read_out(last_layer, rows)

    def _block(self, exit_layer: int, place: Place) -> Tensor:
        """The block of an exit, and the logits of the rows that are read out."""
        (attend,) = place.attention(self._blocks[exit_layer].kv)
        x = self._heads[exit_layer](place.take(self._hidden[exit_layer]), place.turn, attend)
        return self._read_out(exit_layer, place.read_rows(x))

    def _read_out(self, exit_layer: int, rows: Tensor) -> Tensor:
        return self._read_outs.get(exit_layer, self._plain_read_out)(rows)


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
