"""The network writes: several sequences at once, each until a stop token or its own length, with the network's first
choices at every token it adds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.llama import Llama

CHOICES = 16
"""First choices kept for each token."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one sequence starts from and how it is written: the first `opening` tokens are drawn at temperature 1, so
    that one prompt gives many texts, the others at `temperature`, where 0 is greedy."""

    prompt: Sequence[int]
    topic: str
    new_tokens: int
    temperature: float
    opening: int


@dataclass(frozen=True, slots=True)
class Written:
    """A sequence, prompt first. Row i of `choices` and `log_probs`, both (new tokens, CHOICES), is what the network
    would have put at new token i, best first."""

    topic: str
    greedy: bool
    tokens: list[int]
    prompt_tokens: int
    choices: Tensor
    log_probs: Tensor

    @property
    def new_tokens(self) -> int:
        """Tokens that the network added."""
        return len(self.tokens) - self.prompt_tokens


@torch.inference_mode()
def write(
    network: Llama,
    assignments: Sequence[Assignment],
    stop_ids: Collection[int],
    generator: torch.Generator,
    keep_on: Callable[[], bool] = lambda: True,
) -> list[Written] | None:
    """The sequences of all assignments, or None if `keep_on` said no. The same generator state gives the same text."""
    longest = max(len(each.prompt) + each.new_tokens for each in assignments)
    cached = CachedNetwork(network, slots=len(assignments), max_tokens=longest, exits=())
    device = network.embedding.weight.device
    texts = [list(each.prompt) for each in assignments]
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in assignments]
    fed = [0] * len(texts)
    writing = list(range(len(texts)))
    while writing:
        if not keep_on():
            return None
        pieces = [Piece(i, fed[i], len(texts[i]) - fed[i], 1, texts[i][fed[i] :]) for i in writing]
        logits = cached.forward(0, network.config.shape.n_layers, pieces)
        assert logits is not None
        temperatures = torch.tensor([_temperature(assignments[i], len(kept[i])) for i in writing], device=device)
        best = torch.log_softmax(logits.float(), dim=-1).topk(min(CHOICES, logits.shape[-1]))
        choices, log_probs = best.indices.int().cpu(), best.values.half().cpu()
        tokens = _draw(logits, temperatures, generator).tolist()
        for row, (i, token) in enumerate(zip(writing, tokens, strict=True)):
            fed[i] = len(texts[i])
            texts[i].append(token)
            kept[i].append((choices[row], log_probs[row]))
        writing = [i for i in writing if texts[i][-1] not in stop_ids and len(kept[i]) < assignments[i].new_tokens]
    return [
        Written(
            each.topic,
            each.temperature == 0,
            text,
            len(each.prompt),
            torch.stack([choices for choices, _ in rows]),
            torch.stack([log_probs for _, log_probs in rows]),
        )
        for each, text, rows in zip(assignments, texts, kept, strict=True)
    ]


def _temperature(assignment: Assignment, written: int) -> float:
    return 1.0 if written < assignment.opening else assignment.temperature


def _draw(logits: Tensor, temperatures: Tensor, generator: torch.Generator) -> Tensor:
    """A token for each row of logits, (rows, vocab_size): the most likely one where the temperature is 0."""
    greedy = logits.argmax(dim=-1)
    if not bool((temperatures > 0).any()):
        return greedy
    heat = torch.where(temperatures > 0, temperatures, 1.0)
    drawn = torch.multinomial(torch.softmax(logits.float() / heat[:, None], dim=-1), 1, generator=generator)[:, 0]
    return torch.where(temperatures > 0, drawn, greedy)
