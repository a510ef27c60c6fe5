"""The network writes: several sequences at once, each until a stop token or its own length, with the network's first
choices at every token it adds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.files.weights import empty_network
from hispec_sim.models.llama import Llama
from hispec_sim.models.picking import draw, likeliest

CHOICES = 16
"""First choices kept for each token."""
SLOTS = 128
"""Sequences that are written at once: half as many wrote a sixth fewer tokens in the same time."""
WIDE = 256
"""Hidden sizes below gain nothing from bfloat16: the reference model (128) wrote 240 tokens a second in it, and 396 in
single precision."""


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
    """The sequences of all assignments, or None if `keep_on` said no. The same generator state gives the same text.

    At most `SLOTS` are written at once. One that ends makes room for the next, so that the network's weights are read
    for many tokens all the time; the longest begin first, so that few are left to be written alone.
    """
    slots = min(SLOTS, len(assignments))
    longest = max(len(each.prompt) + each.new_tokens for each in assignments)
    cached = CachedNetwork(network, slots=slots, max_tokens=longest, exits=())
    device = network.embedding.weight.device
    texts = [list(each.prompt) for each in assignments]
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in assignments]
    longest_first = sorted(range(len(assignments)), key=lambda i: -assignments[i].new_tokens)
    waiting, seated = deque(longest_first), dict[int, int]()
    while waiting or seated:
        if not keep_on():
            return None
        free = [slot for slot in range(slots) if slot not in seated]
        # Prompts are padded to the longest of those pushed together, so newcomers wait for one another.
        arrived = len(free) >= min(len(waiting), max(1, slots // 8))
        newcomers = dict(zip(free, [waiting.popleft() for _ in free[: len(waiting)]], strict=False)) if arrived else {}
        seated.update(newcomers)
        writing = sorted((newcomers or seated).items())
        pieces = [_piece(slot, texts[i], whole=bool(newcomers)) for slot, i in writing]
        if not newcomers and len(free) < slots // 2:
            # With all slots in order caches are read where they lie; with gaps they would be copied for every layer.
            pieces = sorted([*pieces, *(Piece(slot, 0, 1, 0, [0]) for slot in free)], key=lambda piece: piece.slot)
        logits = cached.forward(0, network.config.shape.n_layers, pieces)
        assert logits is not None
        temperatures = torch.tensor([_temperature(assignments[i], len(kept[i])) for _, i in writing], device=device)
        logits = logits.float()
        best = logits.topk(min(CHOICES, logits.shape[-1]))
        choices = best.indices.int().cpu()
        log_probs = (best.values - logits.logsumexp(dim=-1, keepdim=True)).half().cpu()
        tokens = _draw(logits, temperatures, generator).tolist()
        for row, ((slot, i), token) in enumerate(zip(writing, tokens, strict=True)):
            texts[i].append(token)
            kept[i].append((choices[row], log_probs[row]))
            if token in stop_ids or len(kept[i]) == assignments[i].new_tokens:
                del seated[slot]
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


def fast_for_writing(network: Llama) -> Llama:
    """A copy of a wide network in bfloat16 where the processor multiplies that in hardware, else the network itself.

    Its text is the network's own but for rounding, which teaching can bear and takes half the time."""
    wide = network.config.shape.hidden_size >= WIDE
    if not wide or network.embedding.weight.device.type != "cpu" or not torch.cpu._is_avx512_bf16_supported():
        return network
    copy = empty_network(network.config, "bf16", "cpu")
    copy.load_state_dict(network.state_dict())
    return copy


def _piece(slot: int, text: Sequence[int], *, whole: bool) -> Piece:
    first = 0 if whole else len(text) - 1
    return Piece(slot, first, len(text) - first, 1, text[first:])


def _temperature(assignment: Assignment, written: int) -> float:
    return 1.0 if written < assignment.opening else assignment.temperature


def _draw(logits: Tensor, temperatures: Tensor, generator: torch.Generator) -> Tensor:
    """A token for each row of logits, (rows, vocab_size): the most likely one where the temperature is 0."""
    tokens = likeliest(logits)
    hot = temperatures > 0
    if bool(hot.any()):
        heat = temperatures[hot, None]
        tokens[hot] = draw(torch.softmax(logits[hot] / heat, dim=-1), generator)
    return tokens
