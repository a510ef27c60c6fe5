"""The LM head of the most frequent tokens only: a draft reads out a small part of the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from hispec_sim.errors import InputError
from hispec_sim.models.layouts import PACKED_WEIGHTS
from hispec_sim.models.linear import Layout, laid_out, layout_of, plain_weight
from hispec_sim.models.llama import Llama
from hispec_sim.models.ranking import RANKING


class ShortHead:
    """The final norm and the rows of a network's LM head that belong to its `shortlist` most frequent tokens, copied.

    Logits are as wide as the vocabulary, minus infinity outside the shortlist: a token outside is never chosen and has
    probability 0, so that whoever judges a draft needs to know nothing of shortlists.
    """

    def __init__(self, network: Llama, shortlist: int, exit_layer: int | None = None) -> None:
        """`exit_layer`: what is read out, whose head may have an LM head of its own.

        Raises InputError if the network has no ranking of its tokens, or one of fewer than `shortlist`.
        """
        name, ranking = network.config.shape.name, network.token_ranking
        if ranking is None:
            raise InputError(
                f"a shortlist of {shortlist} tokens needs to know which are most frequent, and network {name} comes "
                f"without a {RANKING}; put one into the model's folder, or have the tokens of a text counted with "
                "--shortlist-text FILE"
            )
        if shortlist > len(ranking.ids):
            raise InputError(
                f"a shortlist of {shortlist} tokens is asked for, but only {len(ranking.ids)} tokens of network {name} "
                "are ranked; give fewer"
            )
        device = network.embedding.weight.device
        self._ids = torch.tensor(sorted(ranking.ids[:shortlist]), device=device)
        self._vocab_size = network.config.shape.vocab_size
        self._norm, head = network.read_by(exit_layer)
        # A packed head shows its rows no more, but the embedding that it is tied to does.
        tied = head is network.head and network.config.shape.tied_embedding
        rows, layout = (network.embedding.weight.detach() if tied else plain_weight(head))[self._ids], layout_of(head)
        small = layout in (Layout.PACKED, Layout.WIDENED) and rows.numel() < PACKED_WEIGHTS
        self._head = laid_out(rows, Layout.PLAIN if small else layout)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (..., vocab_size) of hidden states (..., hidden_size)."""
        logits = self._head(self._norm(x))
        return logits.new_full((*x.shape[:-1], self._vocab_size), -torch.inf).index_copy_(-1, self._ids, logits)
