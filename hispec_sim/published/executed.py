"""Pairs of exits that were decoded for real here, as points: from the figures that `hispec validate` writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hispec_sim.cascade import Bonus
from hispec_sim.hierarchy.prices import Prices, ProfiledPrices
from hispec_sim.hierarchy.tuned import Way
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.latency.profile_file import read_profile
from hispec_sim.published.data import published_table
from hispec_sim.published.points import BOUNDARIES, Point, Ratio

EXECUTED = "executed"
PROFILES = {
    "reference": "cpu_1_thread/reference.csv",
    "reference on an AVX2 EPYC": "amd_epyc_avx2_1_thread/reference.csv",
    "reference on a Xeon": "intel_r_xeon_r_processor_1_thread/reference.csv",
    "smollm2": "cpu_1_thread/SmolLM2-135M-Instruct.Q4_1.csv",
}
"""The latency profile of each model on the machine that executed it."""
TABLES = {
    "reference": ("reference", ""),
    "reference_avx2": ("reference on an AVX2 EPYC", ""),
    "reference_xeon": ("reference on a Xeon", ""),
    "smollm2_prose": ("smollm2", " on prose"),
    "smollm2_humaneval": ("smollm2", " on HumanEval"),
}
"""The model that each table is of, and what it read, where it read several things."""
_CONTEXT = 96
"""Tokens attended to in the middle of the executed texts: prompts of 64, 64 new tokens (SmolLM2's are shorter, and
those of HumanEval longer, which a price hardly shows)."""

_RANGES = (1.13, 1.69, 2.06, 2.33, 2.53, 2.70, 2.85, 2.97, 3.08)
"""Mean range of 2, 3, ... 10 normal values, in standard deviations (control charts know it as d2)."""


@dataclass(frozen=True, slots=True)
class Run:
    """One configuration's tokens per second: the median over repeats, the least and the greatest."""

    exits: tuple[int, ...]
    draft_length: int
    verify_period: int
    bonus: str
    median: float
    low: float
    high: float
    repeats: int

    @property
    def error(self) -> float:
        """Relative standard error of the median: the range of normal values, taken to their standard deviation, over
        the root of their number; a median scatters a quarter more than a mean."""
        return 1.25 * math.log(self.high / self.low) / _RANGES[self.repeats - 2] / math.sqrt(self.repeats)


def runs_of(rows: Iterable[Mapping[str, str]]) -> list[Run]:
    """The configurations of one batch in a table of `hispec validate`."""
    return [
        Run(
            tuple(map(int, filter(None, row["exits"].split("-")))), int(row["draft_length"]),
            int(row["verify_period"]), row["bonus"],
            float(row["tokens_per_s_real"]), float(row["tokens_per_s_real_low"]), float(row["tokens_per_s_real_high"]),
            int(row["repeats"]),
        )
        for row in rows
    ]  # fmt: skip


def shipped_points(profiles: Path) -> Iterator[Point]:
    """Those of the two models that come with the package, at the prices of their profiles in the folder `profiles`.
    Raises InputError if there are none."""
    exits = published_table("exits", EXECUTED)
    for name, (model, text) in TABLES.items():
        cost = NetworkCost(read_profile(profiles / PROFILES[model]), tensor_parallel=1)
        agreement = {int(row["exit_layer"]): float(row["agreement"]) for row in exits.rows if row["table"] == name}

        def prices(pair: tuple[int, int], cost: NetworkCost = cost) -> Prices:
            return ProfiledPrices(cost, *pair, _CONTEXT)

        table = published_table(name, EXECUTED)
        yield from executed_points(model, runs_of(table.rows), agreement, prices, table.source, text)
        if model == "reference":
            yield from _tuned_over_all_exits(prices)


def executed_points(
    model: str,
    runs: list[Run],
    agreement: Mapping[int, float],
    prices: Callable[[tuple[int, int]], Prices],
    source: str,
    text: str = "",
) -> Iterator[Point]:
    """A point for each pair of exits that ran as HiSpec, `text` behind the model's name: its fastest configuration, the
    fastest of the two exits alone, and autoregressive decoding."""
    alone = _fastest(runs, [()])
    for exits in sorted({run.exits for run in runs if len(run.exits) == 2}):
        draft, middle = exits
        single, hispec = _fastest(runs, [(draft,), (middle,)]), _fastest(runs, [exits])
        pairs = ((single, alone), (hispec, alone), (hispec, single))
        yield Point(
            f"{model}{text}, exits {draft} and {middle}", "executed", model, agreement[draft], agreement[middle],
            prices((draft, middle)), {name: _over(*pair) for name, pair in zip(BOUNDARIES, pairs, strict=True)},
            Way(1 if single.exits == (draft,) else 2, single.draft_length, Bonus(single.bonus)),
            Way(1, hispec.draft_length, Bonus(hispec.bonus), hispec.verify_period), source,
        )  # fmt: skip


def _fastest(runs: list[Run], exits: list[tuple[int, ...]]) -> Run:
    return max((run for run in runs if run.exits in exits), key=lambda run: run.median)


def _over(fast: Run, slow: Run) -> Ratio:
    """The ratio of the medians, and its 95 % interval."""
    ratio, spread = fast.median / slow.median, 2 * math.hypot(fast.error, slow.error)
    return Ratio(ratio, ratio * math.exp(-spread), ratio * math.exp(spread))


def _tuned_over_all_exits(prices: Callable[[tuple[int, int]], Prices]) -> Iterator[Point]:
    table = published_table("gain", EXECUTED)
    for row in table.rows:
        draft, middle, alone = (int(row[f"{name}_exit"]) for name in ("draft", "middle", "single"))
        agreements = [float(row[f"{name}_agreement"]) for name in ("draft", "middle", "single")]
        ratios = (
            Ratio(*(float(row[name]) for name in names))
            for names in (
                ("single_over_ar", "single_low", "single_high"),
                ("hispec_over_ar", "hispec_low", "hispec_high"),
                ("hispec_over_single", "ratio_low", "ratio_high"),
            )
        )
        yield Point(
            f"reference, tuned over all exits (run {row['run']}): {draft} and {middle} against {alone}", "executed",
            "reference", agreements[0], agreements[1], prices((draft, middle)),
            dict(zip(BOUNDARIES, ratios, strict=True)),
            Way(1, int(row["single_draft_length"]), Bonus(row["single_bonus"])),
            Way(1, int(row["draft_length"]), Bonus(row["bonus"]), int(row["verify_period"])), table.source,
            (agreements[2], prices((alone, 24))),
        )  # fmt: skip
