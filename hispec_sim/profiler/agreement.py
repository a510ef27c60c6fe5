"""Recording agreement: a target writes, then every exit reads what it wrote; and what follows wrong tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hispec_sim.acceptance.trace import (
    STEPS,
    AgreementTrace,
    Exit,
    OffPath,
    Prompt,
    Sampling,
    label_predictions,
    pair_columns,
)
from hispec_sim.cascade import Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.generate import Settings
from hispec_sim.models.exits import heads_of
from hispec_sim.models.llama import Llama, attend_causally
from hispec_sim.models.picking import likeliest
from hispec_sim.profiler.off_path import Chance, Place, continue_alone

LOGITS = 32_000_000
"""Numbers of logits that are held at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is recorded. `exits` in recorded order, the target last; `middles` are those whose wrong tokens are
    followed, at `places` random places of a sequence, for `tokens` tokens each. Temperature 0 is greedy."""

    exits: tuple[Exit, ...]
    middles: tuple[Exit, ...]
    max_new_tokens: int
    places: int = 4
    tokens: int = 8
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.places < 0 or self.tokens < 1:
            raise InputError("new tokens and tokens behind a wrong one must be at least 1, places at least 0")
        Settings(self.max_new_tokens, temperature=self.temperature, top_p=self.top_p)  # refuses what cannot be drawn


def record_batch(
    networks: Mapping[str, Llama],
    plan: Plan,
    prompts: Sequence[Sequence[int]],
    about: Sequence[Prompt],
    first: int,
    stop_ids: Collection[int],
    on_commit: Callable[[int], None] = lambda tokens: None,
) -> AgreementTrace:
    """The trace of some prompts that are decoded side by side; the first is prompt number `first` of the recording.

    The same prompts in the same batch give the same trace. `on_commit` gets numbers of tokens as they are written.
    Raises InputError when a prompt does not fit.
    """
    target = plan.exits[-1]
    longest = max(map(len, prompts)) + plan.max_new_tokens
    decoder = Decoder(Cascade((Level(*target),)), networks, slots=len(prompts), max_tokens=longest)
    device = networks[target.network].embedding.weight.device
    settings = Settings(plan.max_new_tokens, stop_ids, plan.temperature, plan.top_p)
    outputs, _ = decoder.decode(
        prompts,
        plan.max_new_tokens,
        new_chooser=lambda i: _seeded(settings, plan.seed, first + i).chooser(),
        stop_ids=stop_ids,
        on_commit=lambda _, tokens: on_commit(len(tokens)),
    )
    texts = [[*prompt, *output] for prompt, output in zip(prompts, outputs, strict=True)]
    chance = None
    if plan.temperature > 0:
        generator = torch.Generator(device=device).manual_seed(plan.seed + first)
        chance = Chance(plan.temperature, plan.top_p, generator)
    written = np.concatenate([np.array(output) for output in outputs])
    states = exit_states(networks, plan.exits, texts, [len(prompt) for prompt in prompts])
    predictions, sampling = _predictions(networks, plan.exits, states), None
    if chance is None:
        predictions[:, -1] = written  # where two first choices are all but equal, what was written counts
    else:
        sampling = _sampled(networks, plan, states, torch.from_numpy(written).to(device), chance)
    labels = label_predictions(predictions)
    starts = np.concatenate([[0], np.cumsum([len(output) for output in outputs])]).astype(np.int64)

    def wrong_token(column: int, row: int) -> int:
        if chance is None:
            return int(predictions[row, column])
        return _rejected(networks, plan.exits, [states[column][row], states[-1][row]], column, chance)

    off_path = _off_path(networks, plan, texts, starts, labels, sampling, first, chance, wrong_token)
    shapes = tuple(networks[name].config.shape for name in dict.fromkeys(exit_.network for exit_ in plan.exits))
    return AgreementTrace(shapes, plan.exits, labels, starts, tuple(about), off_path, sampling, {})


def _seeded(settings: Settings, seed: int, number: int) -> Settings:
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return Settings(settings.max_new_tokens, settings.stop_ids, settings.temperature, settings.top_p, own)


@torch.inference_mode()
def exit_states(
    networks: Mapping[str, Llama], exits: Sequence[Exit], texts: Sequence[Sequence[int]], prompt_tokens: Sequence[int]
) -> list[Tensor]:
    """For each exit, (positions, hidden_size): what the final norm and LM head read out to predict each new token of
    each text, through the exit's head if it has one."""
    found: dict[Exit, list[Tensor]] = {exit_: [] for exit_ in exits}
    for text, begun in zip(texts, prompt_tokens, strict=True):
        for name in dict.fromkeys(exit_.network for exit_ in exits):
            network, at = networks[name], 0
            heads = heads_of(network)
            x = network.embedding(torch.tensor([text[:-1]], device=network.embedding.weight.device))
            turn = network.rotations[None, : x.shape[1], None]
            for exit_ in (exit_ for exit_ in exits if exit_.network == name):
                x = network.span(x, at, exit_.exit_layer, turn, attend_causally)
                at = exit_.exit_layer
                out = heads[at](x, turn, attend_causally) if at in heads else x
                found[exit_].append(out[0, begun - 1 :])
    return [torch.cat(found[exit_]) for exit_ in exits]


@torch.inference_mode()
def _predictions(networks: Mapping[str, Llama], exits: Sequence[Exit], states: list[Tensor]) -> NDArray[np.int64]:
    """First choices, (positions, exits)."""
    columns = []
    for exit_, x in zip(exits, states, strict=True):
        network = networks[exit_.network]
        rows = max(1, LOGITS // network.config.shape.vocab_size)
        columns.append(torch.cat([likeliest(network.read_out(part, exit_.exit_layer)) for part in x.split(rows)]))
    return torch.stack(columns, 1).cpu().numpy()


@torch.inference_mode()
def _sampled(
    networks: Mapping[str, Llama], plan: Plan, states: list[Tensor], written: Tensor, chance: Chance
) -> Sampling:
    """The probabilities that speculative rejection needs."""
    n = len(plan.exits)
    pairs, lower = pair_columns(n), pair_columns(n - 1)
    positions = len(written)
    log_prob = np.zeros((positions, n), np.float16)
    acceptance = np.zeros((positions, len(pairs)), np.uint8)
    confirmed = np.zeros((positions, len(lower)), np.uint8)
    rows = max(1, LOGITS // (n * networks[plan.exits[-1].network].config.shape.vocab_size))
    for at in range(0, positions, rows):
        part = slice(at, at + rows)
        p = [
            chance.distributions(networks[exit_.network].read_out(x[part], exit_.exit_layer))
            for exit_, x in zip(plan.exits, states, strict=True)
        ]
        drawn = written[part, None]
        log_prob[part] = torch.stack([each.gather(1, drawn)[:, 0] for each in p], 1).log().clamp(max=0).cpu().numpy()
        keeps = [(p[-1] / each).nan_to_num_(1.0, 1.0).clamp_(max=1.0) for each in p[:-1]]
        for (i, j), column in pairs.items():
            both = torch.minimum(p[i], p[j])
            taken = both.sum(-1)
            acceptance[part, column] = _steps(taken)
            if j < n - 1:
                rejected = 1 - (p[j] * keeps[j]).sum(-1)
                share = (taken - (both * keeps[j]).sum(-1)) / rejected
                # Where the target never rejects, nothing is ever asked of this number.
                confirmed[part, lower[i, j]] = _steps(torch.where(rejected > 1e-6, share, taken))
    return Sampling(plan.temperature, plan.top_p, log_prob, acceptance, confirmed)


@torch.inference_mode()
def _rejected(
    networks: Mapping[str, Llama], exits: Sequence[Exit], states: list[Tensor], column: int, chance: Chance
) -> int:
    """A sample of an exit that the target has rejected: drawn from the excess of the exit's distribution over its."""
    q, p = (
        chance.distributions(networks[exit_.network].read_out(x[None], exit_.exit_layer))
        for exit_, x in zip((exits[column], exits[-1]), states, strict=True)
    )
    return int(chance.draw((q - p).clamp(min=0)))


def _steps(probability: Tensor) -> NDArray[np.uint8]:
    return (probability.clamp(0, 1) * STEPS).round().to(torch.uint8).cpu().numpy()


def _off_path(
    networks: Mapping[str, Llama],
    plan: Plan,
    texts: Sequence[Sequence[int]],
    starts: NDArray[np.int64],
    labels: NDArray[np.uint8],
    sampling: Sampling | None,
    first: int,
    chance: Chance | None,
    wrong_token: Callable[[int, int], int],
) -> OffPath:
    """Continuations behind random wrong tokens of every middle exit."""
    found = OffPath.none(len(plan.exits), sampled=sampling is not None)
    all_at, all_rows = [found.at], [found.rows.repeat(plan.tokens, 1)]
    pairs, target = pair_columns(len(plan.exits)), len(plan.exits) - 1
    lengths = np.diff(starts)
    for middle in plan.middles:
        column = plan.exits.index(middle)
        rng = np.random.default_rng([plan.seed, first, column])
        wrong = labels[:, column] > 0
        if sampling is not None:
            wrong = rng.random(len(labels)) >= sampling.acceptance[:, pairs[column, target]] / STEPS
        places = []
        for s, text in enumerate(texts):
            candidates = np.flatnonzero(wrong[starts[s] : starts[s + 1]])
            begun = len(text) - int(lengths[s])
            room = min(networks[e.network].config.max_positions for e in plan.exits[: column + 1]) - plan.tokens
            candidates = candidates[candidates + begun <= room]
            chosen = rng.permutation(candidates)[: plan.places]
            for position in np.sort(chosen)[::-1].tolist():
                token = wrong_token(column, int(starts[s]) + position)
                places.append(Place(s, position, begun + position, token))
        if places:
            rows = continue_alone(networks, plan.exits, column, texts, places, plan.tokens, chance)
            all_at.append(np.array([[p.sequence, p.position, column] for p in places], np.int32))
            all_rows.append(rows)
    return OffPath(np.concatenate(all_at), np.concatenate(all_rows))
