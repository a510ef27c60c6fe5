"""Measures a trained network on held-out text and on what it writes itself when given held-out beginnings.

Decoding meets only the network's own text, so that is where agreement counts; greedy text of small networks loops,
which is easy to predict, so looped positions are told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from hispec_sim.errors import InputError
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.llama import Llama
from hispec_sim.models.train.agreement import Ids, Pair, Share, acceptance, looped, mean_share, pair, share
from hispec_sim.models.train.probe import exit_logits

CHUNK = 8
"""Texts that are read at once: bounds the memory for logits."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    prompts: int = 48
    prompt_tokens: int = 64
    new_tokens: int = 128
    temperature: float = 0.8
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("prompts", "prompt_tokens", "new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"evaluation: {name} must be at least 1, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise InputError(f"evaluation: temperature must be above 0, got {self.temperature}")


@dataclass(frozen=True, slots=True)
class ExitRow:
    """One exit layer's agreement with the full network: shares of positions where both have the same first choice."""

    exit_layer: int
    loss: float
    """Nats per token on held-out text."""
    text: Share
    """On held-out text."""
    greedy: Share
    """On the network's own greedy text."""
    greedy_looped: Share
    greedy_new: Share
    """On its looped and its other positions."""
    sampled: Share
    """On text that the network sampled."""
    accepted: Share
    """Probability that a sample of the exit is accepted, there, at the same temperature."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All numbers of a network."""

    plan: Plan
    n_layers: int
    full_loss: float
    """Nats per token of the full network on held-out text."""
    looped_greedy: Share
    looped_sampled: Share
    exits: tuple[ExitRow, ...]
    pairs: tuple[Pair, ...]
    """On greedy text."""
    sampled_pairs: tuple[Pair, ...]
    """First choices, on sampled text."""


def evaluate(
    network: Llama, stream: np.ndarray, exits: Sequence[int], pairs: Sequence[tuple[int, int]], plan: Plan | None = None
) -> Evaluation:
    """Measure a network on a held-out token stream. Raises InputError if the stream or the network is too short."""
    plan = plan or Plan()
    n_layers, length = network.config.shape.n_layers, plan.prompt_tokens + plan.new_tokens
    if len(stream) < length + 1:
        raise InputError(f"the held-out text has {len(stream)} tokens, {length + 1} are needed")
    starts = np.linspace(0, len(stream) - length - 1, plan.prompts).astype(int)
    text = stream[starts[:, None] + np.arange(length + 1)].astype(np.int64)
    depths = [*sorted(exits), n_layers]
    rng = np.random.default_rng(plan.seed)
    prompts, first = text[:, : plan.prompt_tokens], plan.prompt_tokens
    greedy = write(network, prompts, plan.new_tokens)
    sampled = write(network, prompts, plan.new_tokens, temperature=plan.temperature, rng=rng)
    on_text = read(network, text, 1, depths, None)
    on_greedy = read(network, greedy, first, depths, None)
    on_sampled = read(network, sampled, first, depths, plan.temperature)
    loops = looped(greedy, first)
    rows = []
    for depth in depths[:-1]:
        hits = {
            name: r.predicted[depth] == r.predicted[n_layers]
            for name, r in (("text", on_text), ("greedy", on_greedy), ("sampled", on_sampled))
        }
        row = ExitRow(
            exit_layer=depth,
            loss=on_text.loss[depth],
            text=share(hits["text"]),
            greedy=share(hits["greedy"]),
            greedy_looped=share(hits["greedy"], loops),
            greedy_new=share(hits["greedy"], ~loops),
            sampled=share(hits["sampled"]),
            accepted=mean_share(on_sampled.accepted[depth]),
        )
        rows.append(row)
    return Evaluation(
        plan=plan,
        n_layers=n_layers,
        full_loss=on_text.loss[n_layers],
        looped_greedy=share(loops),
        looped_sampled=share(looped(sampled, first)),
        exits=tuple(rows),
        pairs=tuple(pair(on_greedy.predicted, *two, n_layers) for two in pairs),
        sampled_pairs=tuple(pair(on_sampled.predicted, *two, n_layers) for two in pairs),
    )


def write(
    network: Llama,
    prompts: Ids,
    new_tokens: int,
    *,
    temperature: float | None = None,
    rng: np.random.Generator | None = None,
) -> Ids:
    """Continue prompts, (texts, tokens) -> (texts, tokens + new_tokens): greedily, or by sampling with `rng`."""
    texts, begun = prompts.shape
    length = begun + new_tokens
    cached = CachedNetwork(network, slots=texts, max_tokens=length, exits=())
    written = np.zeros((texts, length), np.int64)
    written[:, :begun] = prompts
    position, depth = 0, network.config.shape.n_layers
    for end in range(begun, length):
        step = [Piece(i, position, end - position, 1, written[i, position:end].tolist()) for i in range(texts)]
        logits = cached.forward(0, depth, step)
        assert logits is not None
        if temperature is None:
            written[:, end] = logits.argmax(-1).numpy()
        else:
            assert rng is not None
            cumulative = torch.softmax(logits.double() / temperature, -1).cumsum(-1).numpy()
            chosen = (cumulative < rng.random((texts, 1)) * cumulative[:, -1:]).sum(-1)
            written[:, end] = np.minimum(chosen, cumulative.shape[1] - 1)
        position = end
    return written


@dataclass(frozen=True, slots=True)
class Reading:
    """What every exit says about texts, at positions from the first one asked for."""

    predicted: dict[int, Ids]
    """First choice for each position, (texts, positions), by exit layer."""
    loss: dict[int, float]
    """Nats per token."""
    accepted: dict[int, np.ndarray]
    """Probability that the exit's sample is accepted by the full network, (texts, positions)."""


def read(network: Llama, texts: Ids, first: int, depths: list[int], temperature: float | None) -> Reading:
    """Teacher-forced pass over texts, (texts, tokens); what is read out is the prediction of each token from position
    `first` on. Acceptance is worked out if a temperature is given. The last depth must be the full network's."""
    predicted: dict[int, list[Ids]] = {depth: [] for depth in depths}
    accepted: dict[int, list[np.ndarray]] = {depth: [] for depth in depths}
    loss = dict.fromkeys(depths, 0.0)
    for at in range(0, len(texts), CHUNK):
        tokens = torch.from_numpy(texts[at : at + CHUNK])
        logits = [x[:, first - 1 :] for x in exit_logits(network, tokens[:, :-1], depths)]
        targets = tokens[:, first:].flatten()
        full = None if temperature is None else torch.softmax(logits[-1] / temperature, -1).double().numpy()
        for depth, x in zip(depths, logits, strict=True):
            predicted[depth].append(x.argmax(-1).numpy())
            loss[depth] += F.cross_entropy(x.flatten(0, 1), targets, reduction="sum").item()
            if full is not None and temperature is not None:
                accepted[depth].append(acceptance(full, torch.softmax(x / temperature, -1).double().numpy()))
    positions = len(texts) * (texts.shape[1] - first)
    return Reading(
        {depth: np.concatenate(parts) for depth, parts in predicted.items()},
        {depth: total / positions for depth, total in loss.items()},
        {depth: np.concatenate(parts) for depth, parts in accepted.items() if parts},
    )
