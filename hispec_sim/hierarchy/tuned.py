"""The fastest way of each kind at every point, so that kinds are compared tuned with the same care."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.hierarchy.agreement import Agreement, Array
from hispec_sim.hierarchy.prices import Prices
from hispec_sim.hierarchy.rounds import hispec_ms_per_token, single_ms_per_token

LONGEST_HISPEC_DRAFT, LONGEST_PERIOD = 6, 24
LONGEST_DRAFT = LONGEST_PERIOD + LONGEST_HISPEC_DRAFT
"""The longest run that the target may meet is the same for both kinds; else the map would show where one ends."""
AUTOREGRESSIVE, SINGLE, HISPEC = range(3)
KINDS = ("autoregressive", "single layer", "HiSpec")


@dataclass(frozen=True, slots=True)
class Way:
    """A way to speculate with a network's two exits: drafting at depth 1 (draft) or 2 (middle); with a verify period
    the middle exit verifies the draft's tokens."""

    depth: int
    draft_length: int
    bonus: Bonus
    verify_period: int = 0

    def cascade(self, network: str, exits: tuple[int, int], n_layers: int) -> Cascade:
        """The cascade of a network with these exits."""
        target = (n_layers, self.verify_period or self.draft_length)
        middle = ((exits[1], self.draft_length),) if self.verify_period else ()
        depths = ((exits[self.depth - 1], 0), *middle, target)
        return Cascade(tuple(Level(network, *each) for each in depths), self.bonus)

    def __str__(self) -> str:
        if self.verify_period:
            return f"Nd {self.draft_length}, Ni {self.verify_period}, {self.bonus}"
        return f"{('draft', 'middle')[self.depth - 1]} exit, Nd {self.draft_length}, {self.bonus}"


@dataclass(frozen=True, slots=True)
class Best:
    """The fastest of some ways by point: milliseconds per token, and which (an index into `ways`)."""

    ways: list[Way]
    ms: Array
    way: NDArray[np.int64]

    def at(self, index: tuple[int, ...]) -> Way:
        """The fastest way at one point."""
        return self.ways[int(self.way[index])]


@dataclass(frozen=True, slots=True)
class Compared:
    """Milliseconds per committed token of the three kinds, each tuned."""

    autoregressive_ms: float
    single: Best
    hispec: Best

    @property
    def winner(self) -> NDArray[np.int64]:
        """The fastest kind by point, as an index into `KINDS`; the simpler one where two are as fast."""
        alone = np.full_like(self.single.ms, self.autoregressive_ms)
        winner: NDArray[np.int64] = np.argmin([alone, self.single.ms, self.hispec.ms], axis=0)
        return winner

    @property
    def single_speedup(self) -> Array:
        """Tuned single-layer speculation over autoregressive decoding."""
        return self.autoregressive_ms / self.single.ms

    @property
    def hispec_speedup(self) -> Array:
        """Tuned HiSpec over autoregressive decoding."""
        return self.autoregressive_ms / self.hispec.ms

    @property
    def hispec_over_single(self) -> Array:
        """Tuned HiSpec over tuned single-layer speculation."""
        return self.single.ms / self.hispec.ms

    @property
    def gain(self) -> Array:
        """HiSpec over the better of the other two kinds."""
        return np.minimum(self.single.ms, self.autoregressive_ms) / self.hispec.ms


def compare(levels: Agreement, prices: Prices) -> Compared:
    """Tune both kinds at every point of `levels`: draft lengths, verify periods, bonus rules, and the exit that drafts
    alone."""
    return Compared(prices.ms(0, 3, 1), _fastest(_single(levels, prices)), _fastest(_hispec(levels, prices)))


def _single(levels: Agreement, prices: Prices) -> Iterator[tuple[Way, Array]]:
    for depth, accept in ((1, levels.draft), (2, levels.middle)):
        for bonus in Bonus:
            for length in range(1, LONGEST_DRAFT + 1):
                yield Way(depth, length, bonus), single_ms_per_token(accept, prices, depth, length, bonus)


def _hispec(levels: Agreement, prices: Prices) -> Iterator[tuple[Way, Array]]:
    for bonus in Bonus:
        for length in range(1, LONGEST_HISPEC_DRAFT + 1):
            times = hispec_ms_per_token(levels, prices, length, bonus, LONGEST_PERIOD)
            for period, ms in enumerate(times, 1):
                yield Way(1, length, bonus, period), ms


def _fastest(timed: Iterable[tuple[Way, Array]]) -> Best:
    ways, times = zip(*timed, strict=True)
    stacked = np.stack(times)
    fastest = stacked.argmin(axis=0)
    return Best(list(ways), np.take_along_axis(stacked, fastest[None], axis=0)[0], fastest)
