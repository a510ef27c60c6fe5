"""Shared by the tests of the core: constant-cost networks, a short way to run the engine, logs cut into rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.models import AcceptanceModel
from hispec_sim.acceptance.sampler import FateTable, ModelSampler
from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.scheduler import Grouping
from hispec_sim.simulate.engine import Engine, RunLog
from hispec_sim.simulate.pricing import ForwardCost, Pricer
from hispec_sim.step_graph import Move, StepGraph


@dataclass(frozen=True, slots=True)
class LayerCost:
    """A forward costs so much, plus so much for each of its layers, whatever runs through them."""

    per_forward_ms: float = 0.0
    per_layer_ms: float = 1.0

    def span_ms(self, first_layer: int, last_layer: int) -> float:
        return self.per_forward_ms + self.per_layer_ms * (last_layer - first_layer)

    pads = False

    def forward_ms(
        self,
        *,
        first_layer: int,
        last_layer: int,
        batch: int,
        tokens: int,
        logits: int,
        context: NDArray[np.int64],
        shortlist: int | None = None,
        in_row: int | None = None,
    ) -> NDArray[np.float64]:
        return np.full(len(context), self.span_ms(first_layer, last_layer))


@dataclass(frozen=True, slots=True)
class TellingCost:
    """A forward whose milliseconds tell all that it was asked with: no two different requests cost the same."""

    pads = False

    def forward_ms(
        self,
        *,
        first_layer: int,
        last_layer: int,
        batch: int,
        tokens: int,
        logits: int,
        context: NDArray[np.int64],
        shortlist: int | None = None,
        in_row: int | None = None,
    ) -> NDArray[np.float64]:
        return np.asarray(
            (last_layer - first_layer)
            + 2**7 * (shortlist or 0)
            + tokens / 2**7
            + logits / 2**14
            + batch / 2**18
            + context / 2**32,
            np.float64,
        )


def cascade(*levels: tuple[str, int, int], bonus: Bonus = Bonus.ON_MISMATCH) -> Cascade:
    """A cascade from (network, exit layer, verify period)."""
    return Cascade(tuple(Level(*level) for level in levels), bonus)


HISPEC = (("T", 4, 0), ("T", 8, 2), ("T", 32, 4))
DRAFT_EXIT_TARGET = (("D", 6, 0), ("T", 8, 3), ("T", 32, 5))


def simulate(
    decoded_with: Cascade,
    model: AcceptanceModel,
    lengths: Sequence[tuple[int, int]],
    *,
    seed: int,
    cost: ForwardCost | None = None,
    concurrency: int = 1,
    grouping: Grouping = Grouping.WAIT_TO_GROUP,
) -> RunLog:
    """Run the engine; every network costs `cost` (the default tells what was asked)."""
    table = FateTable(model)
    seeds = np.random.SeedSequence(seed)
    costs = dict.fromkeys((level.network for level in decoded_with.levels), cost or TellingCost())
    engine = Engine(
        StepGraph(decoded_with),
        Pricer(costs, range(1, max(map(sum, lengths)) + 1)),
        new_sampler=lambda index: ModelSampler(table, np.random.default_rng(seeds.spawn(1)[0])),
        grouping=grouping,
    )
    return engine.run(lengths, concurrency)


@dataclass(frozen=True, slots=True)
class Round:
    """What one request did between two commits. `room` is what it had left when the round began."""

    request: int
    room: int
    committed: int
    ms: float
    moves: tuple[Move, ...]


def rounds_of(log: RunLog) -> list[Round]:
    """The log of a run at concurrency 1, cut at each commit."""
    rounds: list[Round] = []
    moves: list[Move] = []
    ms, room, index = 0.0, log.requests[0].output_tokens, 0
    for move, duration_ms in zip(log.move, log.duration_ms, strict=True):
        moves.append(move)
        ms += duration_ms
        if move.committed:
            rounds.append(Round(index, room, move.committed, ms, tuple(moves)))
            room -= move.committed
            moves, ms = [], 0.0
            if room == 0 and index + 1 < len(log.requests):
                index += 1
                room = log.requests[index].output_tokens
    return rounds


def steps_of(done: Round, n_levels: int) -> list[int]:
    """Steps of each level in a round: forwards that did not merely hand their hidden states on."""
    count = [0] * n_levels
    for move in done.moves:
        count[move.source.level] += move.matched >= 0
    return count
