"""A bench for a real network: caches, clock, steady probe and decodes, made ready for measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Chooser, Greedy, Token, Verdict
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.record import Record
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.exits import heads_of
from hispec_sim.models.llama import Llama
from hispec_sim.profiler.clock import Clock, CudaClock, ProcessorClock, WallClock
from hispec_sim.profiler.forwards import Bench, Kind, rows_of
from hispec_sim.profiler.plan import Grid, cuts_of, short_exits
from hispec_sim.profiler.timed_network import TimedNetwork
from hispec_sim.profiler.token_pool import TokenPool

CLOCKS = ("wall", "processor")
NETWORK = "network"
PROMPT_TOKENS, NEW_TOKENS = 16, 32
DRAFT_LENGTH, VERIFY_PERIOD = 2, 4
READ = (16384, 1024)
"""Shape of the matrix of steady reading: 64 MiB."""


def clock_for(network: Llama, name: str) -> Clock:
    """The clock of a network's device. Raises InputError for an unknown one, or one that cannot be right."""
    if name not in CLOCKS:
        raise InputError(f"--clock must be one of {', '.join(CLOCKS)}, got {name!r}")
    device = network.embedding.weight.device.type
    if name == "processor" and (device != "cpu" or torch.get_num_threads() > 1):
        raise InputError("--clock processor counts one thread on a CPU; give --device cpu --threads 1")
    if device == "cuda":
        return CudaClock()
    return ProcessorClock() if name == "processor" else WallClock()


def steady_work(device: torch.device) -> Callable[[], Any]:
    """Always the same product of matrices: what makes it slower makes everything slower."""
    matrix = torch.rand(384, 384, device=device)
    return lambda: [matrix @ matrix for _ in range(4)]


def steady_reading(device: torch.device) -> Callable[[], Any]:
    """Always the same bytes, more than caches hold: others who use the memory make a forward slower, and not a small
    product of matrices. Fewer bytes would be read from a cache, or not, as the work before has left it."""
    matrix, vector = torch.rand(*READ, device=device), torch.rand(READ[1], device=device)
    return lambda: matrix @ vector


def open_bench(network: Llama, grid: Grid, clock: Clock, exits: Sequence[int], seed: int) -> Bench:
    """Caches for the largest batch and for one sequence, filled. `exits`: where decodes exit. Where forwards become
    CUDA graphs, every scene of the grid is played once, so that captures are no part of what scenes cost. Raises
    InputError if memory does not suffice."""
    n_layers, longest = grid.n_layers, grid.contexts[-1]
    cuts = cuts_of(n_layers, exits)
    short = short_exits(grid.shortlists, cuts, (*grid.head_exits, *exits, *grid.drafting))
    slots = {1: 1} | ({grid.batches[-1]: grid.batches[-1]} if grid.batches[-1] > 1 else {})
    opened = {
        count: TimedNetwork(
            network,
            slots=count,
            max_tokens=longest,
            exits=sorted({*cuts, *grid.drafting}),
            shortlists={exit_layer: size for size, exit_layer in short.items()},
        )
        for count in slots
    }
    largest = max(opened)
    networks = {batch: opened[batch if batch == 1 else largest] for batch in range(1, largest + 1)}

    def decode(batch: int, number: int) -> Record:
        cascade = cascades(n_layers, exits)[number]
        run = partial(decode_once, networks[batch], cascade, batch, clock, seed)
        networks[batch].settle((Kind.DECODE, batch, number), run)
        return run()

    pass_ms = dict[int, float]()

    def draft(batch: int, exit_layer: int, context: int, length: int) -> Record:
        if batch not in pass_ms:
            token = [Piece(slot, grid.contexts[0] - 1, 1, 1, [0]) for slot in range(batch)]
            networks[batch].settle_forward(0, n_layers, token)
            pass_ms[batch] = min(clock.timed(lambda: networks[batch].forward(0, n_layers, token))[0] for _ in range(3))
        tokens = rows_of(length, pass_ms[batch]) * (length + 1)
        first = max(1, min(context + tokens // 2, longest) - tokens)
        run = partial(draft_rows, networks[batch], exit_layer, length, batch, clock, seed, first, tokens)
        networks[batch].settle((Kind.DRAFTS, batch, exit_layer, context, length), run)
        return run()

    ids = TokenPool(np.random.default_rng(seed), network.config.shape.vocab_size)
    bench = Bench(networks, clock, n_layers, ids, cuts, grid.contexts, short, decode, draft)
    for batch in opened:
        bench.fill(batch, longest)
    if opened[largest].captures:
        for episode in grid.episodes():
            bench.play(episode)
    return bench


def default_exits(network: Llama) -> tuple[int, ...]:
    """Those with trained heads, or else two at a tenth and a third of the depth."""
    n_layers = network.config.shape.n_layers
    heads = tuple(sorted(heads_of(network)))
    return heads or tuple(sorted({max(1, n_layers // 10), max(1, n_layers // 3)} - {n_layers}))


def cascades(n_layers: int, exits: Sequence[int]) -> list[Cascade]:
    """Those that decode for the time between forwards: the target alone, and one that uses up to two exits."""
    lower = list(exits[:2])
    found = [Cascade((Level(NETWORK, n_layers),))]
    if lower:
        levels = [
            Level(NETWORK, exit_layer, (0, DRAFT_LENGTH, VERIFY_PERIOD)[k])
            for k, exit_layer in enumerate([*lower, n_layers])
        ]
        found.append(Cascade(tuple(levels), Bonus.ALWAYS))
    return found


def decode_once(network: CachedNetwork, cascade: Cascade, batch: int, clock: Clock, seed: int) -> Record:
    """Random prompts decoded side by side, greedily."""
    return _decoded(network, cascade, batch, clock, seed, PROMPT_TOKENS, NEW_TOKENS, Greedy())


class Agreeing(Greedy):
    """Finds the first choices of logits as `Greedy` does, and takes every run for them: all sequences of a batch stay
    side by side, and all rows of drafts are whole."""

    def judge(self, level: int, logits: Tensor, run: Sequence[Token], *, bonus: bool) -> Verdict:
        verdict = super().judge(level, logits, run, bonus=bonus)
        return Verdict(len(run), Token(run[-1].token_id, level) if bonus else None) if run else verdict


def draft_rows(
    network: CachedNetwork,
    exit_layer: int,
    length: int,
    batch: int,
    clock: Clock,
    seed: int,
    prompt_tokens: int,
    new_tokens: int,
) -> Record:
    """Sequences decoded side by side by rows of so many drafts of one exit, all of which are taken, each with a token
    that catches up and the target's verification behind it."""
    levels = (Level(NETWORK, exit_layer), Level(NETWORK, network.network.config.shape.n_layers, length))
    cascade = Cascade(levels, Bonus.ALWAYS)
    return _decoded(network, cascade, batch, clock, seed, prompt_tokens, new_tokens, Agreeing())


def _decoded(
    network: CachedNetwork,
    cascade: Cascade,
    batch: int,
    clock: Clock,
    seed: int,
    prompt_tokens: int,
    new_tokens: int,
    chooser: Chooser,
) -> Record:
    """The caches are taken for those of the prompts: what they hold takes the same time."""
    new_tokens = min(new_tokens, network.max_tokens - 1)
    prompt_tokens = min(prompt_tokens, network.max_tokens - new_tokens)
    vocabulary = network.network.config.shape.vocab_size
    prompts = np.random.default_rng(seed).integers(0, vocabulary, (batch, prompt_tokens)).tolist()
    for level in cascade.levels[:-1]:
        network.forget_unread(level.exit_layer, [Piece(slot, prompt_tokens - 1, 1, 0) for slot in range(batch)])
    decoder = Decoder(cascade, {NETWORK: network}, slots=batch, max_tokens=network.max_tokens, clock_s=clock.loop_s)
    _, record = decoder.decode(prompts, new_tokens, new_chooser=lambda index: chooser, prefilled=True)
    return record
