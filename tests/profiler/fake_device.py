"""A device whose forwards take exactly what a formula says, on a clock that stands still between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hispec_sim.execute.record import DeviceForward, Record
from hispec_sim.models.cache import Piece
from hispec_sim.profiler.forwards import Bench
from hispec_sim.profiler.plan import Grid, cuts_of, short_exits
from hispec_sim.profiler.token_pool import TokenPool

N_LAYERS, VOCABULARY = 12, 50
HOST_MS, CHOOSE_MS, COMMIT_MS = 0.25, 0.5, 0.0625
GRID = Grid(N_LAYERS, (1, 4), (1, 2, 4), (8, 64, 128), head_exits=(3,), shortlists=(10,), cascades=2)


@dataclass
class FakeClock:
    """Seconds pass only by `spend`."""

    seconds: float = 0.0
    name: str = "fake"

    def spend(self, ms: float) -> None:
        self.seconds += ms / 1000

    def now_s(self) -> float:
        return self.seconds

    loop_s = now_s

    def timed(self, work: Callable[[], object]) -> tuple[float, object]:
        began = self.seconds
        result = work()
        return 1000 * (self.seconds - began), result


@dataclass
class FakeForwards:
    """fixed + embedding + layers + exit head + LM head, each a formula of its own; drafts behind drafts save
    `saved_ms` or a part of it, the more the fewer layers they have and the more of them went before."""

    clock: FakeClock
    saved_ms: float = 0.0
    row: int = 0
    seen: int = 0

    def settle_forward(self, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> None:
        """Every forward takes the same time from the first on."""

    def forward(self, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> torch.Tensor | None:
        batch, tokens, logits = len(pieces), pieces[0].tokens, pieces[0].logits
        ms = fixed_ms(batch, tokens) + (last_layer - first_layer) * layer_ms(batch, tokens, pieces[0].position + tokens)
        if first_layer == 0:
            assert all(len(piece.token_ids) == tokens for piece in pieces)
            ms += embedding_ms(batch * tokens)
        end = pieces[0].position + tokens
        if first_layer < 3 <= last_layer:
            self.seen = min(self.seen, pieces[0].position)
        if logits:
            ms += head_ms(batch * logits, 10 if last_layer == 7 else VOCABULARY)
            if last_layer == 3:  # the exit head runs over all that it has not seen
                ms += exit_head_ms(batch, end - self.seen, end)
                self.seen = end
        if last_layer == N_LAYERS:
            self.row = 0
        elif first_layer == 0:
            self.row += 1
            ms -= self.saved_ms * (1 - last_layer / N_LAYERS) * (1 - 1 / self.row)
        self.clock.spend(ms)
        return torch.zeros(batch * logits, VOCABULARY) if logits else None


def fixed_ms(batch: int, tokens: int) -> float:
    return 2.0 + 0.5 * batch + 0.25 * tokens


def layer_ms(batch: int, tokens: int, context: int) -> float:
    return 1.0 + 0.5 * batch * tokens + 0.01 * batch * context


def embedding_ms(tokens: int) -> float:
    return 0.5 + 0.125 * tokens


def head_ms(rows: int, size: int) -> float:
    return (1.0 + 0.25 * rows) * size / VOCABULARY


def exit_head_ms(batch: int, tokens: int, context: int) -> float:
    return 0.75 + 0.25 * batch * tokens + 0.001 * context


def fake_record(batch: int, number: int) -> Record:
    """Three read-out forwards and one that is not, a gap behind each."""
    record, at = Record(), 0.0
    for last, rows in ((N_LAYERS, 1), (3, 1), (3, 0), (N_LAYERS, 1), (3, 1)):
        gap_ms = HOST_MS + (CHOOSE_MS if rows else 0.0)
        record.device.append(DeviceForward("n", 0, last, batch, batch, batch * rows, None, 5.0, at, 10))
        at += 5.0 + gap_ms * batch
    record.wall_ms = at
    return record


def behind_ms(layers: int, nth: int | None) -> float:
    """Of one sequence, behind the nth draft or what catches up: the longer, the more layers and the fewer before it."""
    share = (1 + math.log(layers)) / (1 + math.log(N_LAYERS))
    return HOST_MS * share if nth is None else HOST_MS + CHOOSE_MS * (share if nth == 1 else share / 2)


def fake_drafts(forwards: FakeForwards, seldom_ms: float, batch: int, layers: int, context: int, length: int) -> Record:
    """Four rows; the first is to be left out, and so is what one sequence alone does. Verifications take `seldom_ms`
    more, or a part of it, the less the fewer layers they have."""
    record, clock, began = Record(), forwards.clock, forwards.clock.seconds

    def run(first: int, last: int, sequences: int, logits: int, gap_ms: float) -> None:
        at, tokens = clock.seconds, max(1, logits)
        pieces = [Piece(i, context - tokens, tokens, logits, [0] * tokens) for i in range(sequences)]
        forwards.forward(first, last, pieces)
        clock.spend(seldom_ms * (1 - first / N_LAYERS) if first else 0.0)
        ms, at_ms = 1000 * (clock.seconds - at), 1000 * (at - began)
        rows = sequences * logits
        record.device.append(
            DeviceForward("n", first, last, sequences, sequences * tokens, rows, None, ms, at_ms, tokens)
        )
        clock.spend(gap_ms)

    for row in range(4):
        for nth in (*range(1, length + 1), None):
            alone = batch > 1 and nth == 3 and row == 2
            gap_ms = behind_ms(layers, nth) * batch if row and not alone else 9.0
            run(0, layers, 1 if alone else batch, int(nth is not None), gap_ms)
        gap_ms = (HOST_MS + CHOOSE_MS + COMMIT_MS * length) * batch
        run(layers, N_LAYERS, batch, length + 1, gap_ms if 0 < row < 3 else 9.0)
    record.wall_ms = 1000 * (clock.seconds - began)
    return record


def fake_bench(clock: FakeClock, grid: Grid = GRID, *, saved_ms: float = 0.0, seldom_ms: float = 0.0) -> Bench:
    cuts = cuts_of(grid.n_layers, (3,))
    networks = {b: FakeForwards(clock, saved_ms) for b in range(1, grid.batches[-1] + 1)}
    bench = Bench(
        networks,
        clock,
        grid.n_layers,
        TokenPool(np.random.default_rng(0), VOCABULARY),
        cuts,
        grid.contexts,
        short_exits(grid.shortlists, cuts, (*grid.head_exits, *grid.drafting)),
        fake_record,
        lambda batch, *row: fake_drafts(networks[batch], seldom_ms, batch, *row),
    )
    for batch in grid.batches:
        bench.fill(batch, grid.contexts[-1])
    return bench
