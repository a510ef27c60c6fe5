"""Real points on the map of when a hierarchy pays: what was executed here and what others have published.

A point knows how often its exits agree with the target, what its forwards cost, which ways of decoding were run and how
much faster one was than another. Every such ratio lies on one side of a boundary of the map or the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from hispec_sim.acceptance.exit_curve import known_exit_curves
from hispec_sim.cascade import Bonus
from hispec_sim.hierarchy.agreement import agreement
from hispec_sim.hierarchy.prices import Prices, ProfiledPrices
from hispec_sim.hierarchy.rounds import hispec_ms_per_token, single_ms_per_token
from hispec_sim.hierarchy.tuned import Way, compare
from hispec_sim.published.bench import OUTPUT_TOKENS, PROMPT_TOKENS, Bench, eager_host, launch_bound_host
from hispec_sim.published.conversion import per_token_from_matched
from hispec_sim.published.data import published_table, published_value
from hispec_sim.published.depths import agreement_at
from hispec_sim.published.shares import ACCEPTANCES, acceptance_of
from hispec_sim.published.speedups import DATASETS, DRAFT_LENGTH, EXITS, PROFILES, VERIFY_PERIOD

CONTEXT = PROMPT_TOKENS + OUTPUT_TOKENS // 2
SINGLE_OVER_AR, HISPEC_OVER_AR, HISPEC_OVER_SINGLE = (
    "single layer over autoregressive", "HiSpec over autoregressive", "HiSpec over single layer",
)  # fmt: skip
BOUNDARIES = (SINGLE_OVER_AR, HISPEC_OVER_AR, HISPEC_OVER_SINGLE)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A real speedup, and between which values it lies as far as is known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Point:
    """`draft` and `middle` are the agreements of the two exits with the target. Where only one exit ran, `middle`
    equals `draft`. `single` and `hispec` are the ways that ran, `real` the speedups that were seen, by boundary."""

    name: str
    kind: str  # executed or published
    network: str
    draft: float
    middle: float
    prices: Prices
    real: dict[str, Ratio]
    single: Way | None = None
    hispec: Way | None = None
    source: str = field(default="", compare=False)
    alone: tuple[float, Prices] | None = None
    """Agreement and prices of the exit that drafted alone where it is neither of the two; depth 1 of its prices."""

    def as_run(self, odds_ratio: float) -> dict[str, float]:
        """The map's speedups of the very ways that ran, by boundary."""
        levels = agreement([self.draft], [self.middle], odds_ratio)
        alone = self.prices.ms(0, 3, 1)
        single = hispec = math.nan
        if self.single is not None:
            accept, prices = (self.draft, self.middle)[self.single.depth - 1], self.prices
            if self.alone is not None:
                accept, prices = self.alone
            args = (self.single.depth, self.single.draft_length, self.single.bonus)
            single = alone / float(single_ms_per_token(np.array([accept]), prices, *args)[0])
        if self.hispec is not None:
            args_ = (self.hispec.draft_length, self.hispec.bonus, self.hispec.verify_period)
            hispec = alone / float(hispec_ms_per_token(levels, self.prices, *args_)[-1][0])
        return dict(zip(BOUNDARIES, (single, hispec, hispec / single), strict=True))

    def tuned(self, odds_ratio: float) -> dict[str, float]:
        """The map's speedups where both kinds are tuned, by boundary: which region the point lies in."""
        found = compare(agreement([self.draft], [self.middle], odds_ratio), self.prices)
        each = (found.single_speedup, found.hispec_speedup, found.hispec_over_single)
        return {name: float(ratio[0]) for name, ratio in zip(BOUNDARIES, each, strict=True)}


def published_points(bench: Bench) -> Iterator[Point]:
    """HiSpec's (Table 1, Figures 5b and 6) and LayerSkip's (Table 1), with the stated readings of the paper checks."""
    yield from _layerskip(bench)
    yield from _hispec_table(bench)
    yield from _exit_order(bench)
    yield _exit_curve(bench)


def _read(value: float, share: float = 0.0) -> Ratio:
    return Ratio(value, value * (1 - share), value * (1 + share))


def _layerskip(bench: Bench) -> Iterator[Point]:
    table = published_table("layerskip_table1")
    for row in table.rows:
        network, exit_layer, length = row["network"], int(row["exit_layer"]), int(row["draft_length"])
        decode_ms = 1000 / float(row["autoregressive_tok_s"])
        host = launch_bound_host(bench.cost(network, 1), decode_ms, context=CONTEXT)
        accept = per_token_from_matched(float(row["matched_per_drafted"]), length)
        speedups = (float(row["speedup"]), float(row["self_speculative_tok_s"]) / float(row["autoregressive_tok_s"]))
        yield Point(
            f"LayerSkip {network}, {row['task']}, exit {exit_layer}", "published", network, accept, accept,
            ProfiledPrices(bench.cost(network, 1, host), exit_layer, exit_layer + 1, CONTEXT),
            {SINGLE_OVER_AR: Ratio(speedups[0], min(speedups), max(speedups))},
            Way(1, length, Bonus.ALWAYS), source=table.source,
        )  # fmt: skip


def _hispec_table(bench: Bench) -> Iterator[Point]:
    table = published_table("hispec_table1")
    rows = {(row["network"], row["method"]): row for row in table.rows}
    for network, exits in EXITS.items():
        prices = ProfiledPrices(bench.cost(PROFILES[network], 0, eager_host(bench)), *exits, CONTEXT)
        for dataset in DATASETS:
            shares = acceptance_of(network, dataset, ACCEPTANCES[0], DRAFT_LENGTH, VERIFY_PERIOD, Bonus.ALWAYS)
            single, hispec = (float(rows[network, method][dataset]) for method in ("LayerSkip", "HiSpec"))
            ratios = zip(BOUNDARIES, (single, hispec, hispec / single), strict=True)
            yield Point(
                f"HiSpec {network}, {dataset}, exits {exits[0]} and {exits[1]}", "published", network, *shares, prices,
                {name: _read(value) for name, value in ratios},
                Way(1, DRAFT_LENGTH, Bonus.ALWAYS), Way(1, DRAFT_LENGTH, Bonus.ALWAYS, VERIFY_PERIOD), table.source,
            )  # fmt: skip


def _exit_order(bench: Bench) -> Iterator[Point]:
    table, network = published_table("hispec_fig5b"), "llama-2-70b"
    shares = acceptance_of(network, "cnn_dm", ACCEPTANCES[0], DRAFT_LENGTH, VERIFY_PERIOD, Bonus.ALWAYS)
    cost = bench.cost(network, 0, eager_host(bench))
    for row in table.rows:
        exits = (int(row["draft_exit"]), int(row["intermediate_exit"]))
        draft, middle = (agreement_at(exit_layer, *shares) for exit_layer in exits)
        yield Point(
            f"HiSpec {network}, cnn_dm (Fig. 5b), exits {exits[0]} and {exits[1]}", "published", network, draft, middle,
            ProfiledPrices(cost, *exits, CONTEXT), {HISPEC_OVER_AR: _read(float(row["speedup"]), 0.01)},
            hispec=Way(1, DRAFT_LENGTH, Bonus.ALWAYS, VERIFY_PERIOD), source=table.source,
        )  # fmt: skip


def _exit_curve(bench: Bench) -> Point:
    network, exits = "codellama-34b", (7, 12)
    draft, middle = (known_exit_curves()[network].accept[exit_layer - 1] for exit_layer in exits)
    gain = published_value("hispec_text", "codellama-34b_exit7_12_throughput_gain")
    return Point(
        f"HiSpec {network} (Fig. 6), exits {exits[0]} and {exits[1]}", "published", network, draft, middle,
        ProfiledPrices(bench.cost(network, 1, eager_host(bench)), *exits, CONTEXT), {HISPEC_OVER_SINGLE: _read(gain)},
        Way(1, DRAFT_LENGTH, Bonus.ALWAYS), Way(1, DRAFT_LENGTH, Bonus.ALWAYS, VERIFY_PERIOD),
        published_table("hispec_text").source,
    )  # fmt: skip
