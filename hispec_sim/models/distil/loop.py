"""Training heads: hidden states from the frozen lower layers, once for all exits and passes, and the distance of what
each head reads out of them to what the whole network said.

The network's first choices were stored with the text, so the layers above the deepest exit never run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hispec_sim.models.distil.states import KeptStates
from hispec_sim.models.distil.write import Written
from hispec_sim.models.exits import ExitHead, Kind, new_head
from hispec_sim.models.llama import Llama, attend_causally
from hispec_sim.models.train.checkpoint import load_checkpoint, save_checkpoint

BATCH = 8
"""Sequences of a step."""
POOL = 16
"""Batches whose sequences are sorted by length together."""
SAMPLED_TOKENS = 4096
"""Random tokens that stand for those of the vocabulary that the network chose nowhere in a batch."""
PASSES = 3
"""How often each sequence is seen unless a run says otherwise, where time allows."""
LEARNING_RATE = {Kind.ADAPTER: 1e-3, Kind.BLOCK: 1e-3, Kind.LM_HEAD: 2e-3}
FINAL_LEARNING_RATE = 0.02
WARM_UP = 0.05
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.95)
CLIP = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences side by side, padded at their ends: `tokens` (sequences, longest - 1). Of the position (sequence,
    place) in `rows`, the network chose `choices` (rows, CHOICES) with `log_probs`."""

    tokens: Tensor
    rows: tuple[Tensor, Tensor]
    choices: Tensor
    log_probs: Tensor


def batch_of(sequences: Sequence[Written], device: torch.device) -> Batch:
    """What a step needs of some sequences. The last token of each is only ever predicted."""
    longest = max(len(each.tokens) for each in sequences) - 1
    padded = [[*each.tokens[:-1], *[0] * (longest - len(each.tokens) + 1)] for each in sequences]
    places = [torch.arange(each.prompt_tokens - 1, len(each.tokens) - 1) for each in sequences]
    owners = [torch.full_like(place, i) for i, place in enumerate(places)]
    return Batch(
        torch.tensor(padded, device=device),
        (torch.cat(owners).to(device), torch.cat(places).to(device)),
        torch.cat([each.choices for each in sequences]).long().to(device),
        torch.cat([each.log_probs for each in sequences]).float().to(device),
    )


def head_logits(
    network: Llama, head: ExitHead, x: Tensor, batch: Batch, candidates: Candidates | None = None
) -> Tensor:
    """Logits at the batch's rows, read out through a head: (rows, vocab_size), or (rows, candidates)."""
    turn = network.rotations[None, : x.shape[1], None]
    norm, lm_head = head.reads_by or (network.norm, network.head)
    weight = lm_head.weight if candidates is None else lm_head.weight[candidates.token_ids]
    return F.linear(norm(head(x, turn, attend_causally)[batch.rows]), weight)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that stand for the whole vocabulary in one step: all that the network chose somewhere in the batch, and a
    random sample of the rest, each of which counts for as many as it was drawn from (importance sampling, Bengio and
    Senecal 2008). The LM head of a wide vocabulary would otherwise be most of a step.

    `token_ids` (candidates,), ascending; `log_weights` (candidates,), 0 for what was chosen.
    """

    token_ids: Tensor
    log_weights: Tensor


def draw_candidates(choices: Tensor, vocab_size: int, n_sampled: int, rng: np.random.Generator) -> Candidates:
    """The candidates of a batch; all tokens where sampling would leave out few."""
    device = choices.device
    chosen = torch.zeros(vocab_size, dtype=torch.bool)
    chosen[choices.cpu().flatten()] = True
    rest = np.flatnonzero(~chosen.numpy())
    if len(rest) <= 2 * n_sampled:
        return Candidates(torch.arange(vocab_size, device=device), torch.zeros(vocab_size, device=device))
    weights = torch.zeros(vocab_size)
    sampled = torch.from_numpy(rng.choice(rest, n_sampled, replace=False))
    weights[sampled] = math.log(len(rest) / n_sampled)
    chosen[sampled] = True
    return Candidates(chosen.nonzero()[:, 0].to(device), weights[chosen].to(device))


def divergence(logits: Tensor, candidates: Candidates, choices: Tensor, log_probs: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence, in nats, of a head's distribution from the network's, which is taken as if its
    first choices were all it could say. `logits`: (rows, candidates)."""
    theirs = torch.log_softmax(log_probs, dim=-1)
    total = (logits + candidates.log_weights).logsumexp(dim=-1, keepdim=True)
    ours = logits.gather(-1, torch.searchsorted(candidates.token_ids, choices)) - total
    return (theirs.exp() * (theirs - ours)).sum(dim=-1).mean()


def order_of_pass(lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of all sequences in which those of a batch are of similar length, so that little is padding."""
    order = rng.permutation(len(lengths))
    pools = [order[first : first + POOL * BATCH] for first in range(0, len(order), POOL * BATCH)]
    whole = [
        sorted_[first : first + BATCH]
        for sorted_ in (pool[np.argsort(lengths[pool], kind="stable")] for pool in pools)
        for first in range(0, len(sorted_), BATCH)
    ]
    full, rest = [part for part in whole if len(part) == BATCH], [part for part in whole if len(part) < BATCH]
    return np.concatenate([*(full[i] for i in rng.permutation(len(full))), *rest])


class HeadTrainer:
    """Heads in training, and how many of `steps` steps they have made."""

    def __init__(
        self,
        network: Llama,
        exits: Sequence[int],
        kind: Kind,
        sequences: Sequence[Written],
        *,
        steps: int,
        seed: int,
        room_bytes: int | None = None,
    ) -> None:
        """`exits`: shallow to deep. The network is frozen; `room_bytes` may go to what it makes of the text."""
        self.network, self.exits, self.kind = network.requires_grad_(False), tuple(exits), kind
        self.sequences, self.steps, self.seed = sequences, steps, seed
        self.step = 0
        self._order: tuple[int, np.ndarray] | None = None
        self._bfloat16 = network.embedding.weight.device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
        dtype = torch.bfloat16 if self._bfloat16 else network.embedding.weight.dtype
        self._states = KeptStates(network, self.exits, dtype, room_bytes)
        self._heads = nn.ModuleDict({str(layer): new_head(kind, network).float() for layer in exits})
        matrices = [parameter for parameter in self._heads.parameters() if parameter.dim() > 1]
        vectors = [parameter for parameter in self._heads.parameters() if parameter.dim() == 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
            lr=LEARNING_RATE[kind],
            betas=BETAS,
        )

    @property
    def heads(self) -> dict[int, ExitHead]:
        """The heads by exit layer."""
        return {layer: cast(ExitHead, self._heads[str(layer)]) for layer in self.exits}

    def train_step(self) -> dict[int, float]:
        """Make the next step; returns the divergence at each exit."""
        parts = self._losses(self._numbers_of(self.step))
        torch.stack(list(parts.values())).sum().backward()
        for head in self.heads.values():
            torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        for group in self._optimizer.param_groups:
            group["lr"] = LEARNING_RATE[self.kind] * self._rate()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {layer: part.item() for layer, part in parts.items()}

    def try_step(self) -> None:
        """The work of a step, but for the last move: everything stays as it is."""
        torch.stack(list(self._losses(self._numbers_of(self.step)).values())).sum().backward()
        self._optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path, rest: dict[str, Any]) -> None:
        """Write a checkpoint with `rest` (plain data) beside the step."""
        save_checkpoint(folder, self._heads, self._optimizer, {"step": self.step, **rest})

    def load(self, folder: Path) -> dict[str, Any]:
        """Continue from a checkpoint; returns what was saved beside it."""
        rest = dict(load_checkpoint(folder, self._heads, self._optimizer))
        self.step = int(rest["step"])
        for parameter, state in self._optimizer.state.items():
            for key, value in state.items():
                if key != "step":  # a number, which stays where it is
                    state[key] = value.to(parameter.device)
        return rest

    def _losses(self, numbers: Sequence[int]) -> dict[int, Tensor]:
        """The divergence at each exit on the sequences of these numbers."""
        sequences = [self.sequences[number] for number in numbers]
        batch = batch_of(sequences, self.network.embedding.weight.device)
        rng = np.random.default_rng([self.seed, 4, self.step])
        candidates = draw_candidates(batch.choices, self.network.config.shape.vocab_size, SAMPLED_TOKENS, rng)
        found = {}
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=self._bfloat16):
            lengths = [len(each.tokens) - 1 for each in sequences]
            states = self._states.of(numbers, [row[:n] for row, n in zip(batch.tokens, lengths, strict=True)])
            for (layer, head), x in zip(self.heads.items(), states, strict=True):
                logits = head_logits(self.network, head, x, batch, candidates).float()
                found[layer] = divergence(logits, candidates, batch.choices, batch.log_probs)
        return found

    def _numbers_of(self, step: int) -> list[int]:
        """The sequences of a step follow from the step: every pass over the text has an order of its own."""
        per_pass = max(1, len(self.sequences) // BATCH)
        turn, place = divmod(step, per_pass)
        if self._order is None or self._order[0] != turn:
            lengths = np.array([len(each.tokens) for each in self.sequences])
            self._order = turn, order_of_pass(lengths, np.random.default_rng([self.seed, 3, turn]))
        return self._order[1][place * BATCH : (place + 1) * BATCH].tolist()

    def _rate(self) -> float:
        """Share of the learning rate at this step: a linear start, then half a cosine."""
        warm = max(1, round(WARM_UP * self.steps))
        if self.step < warm:
            return (self.step + 1) / warm
        part = (self.step - warm) / max(1, self.steps - warm)
        return FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * (1 + math.cos(math.pi * part)) / 2
