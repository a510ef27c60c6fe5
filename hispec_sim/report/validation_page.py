"""A whole validation as a page: figures, tables and where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hispec_sim.report.page.render import Cell, Page, PageTable, Section, render
from hispec_sim.report.sweep_figures import Picture
from hispec_sim.report.validation_figures import factor_figure, scatter_figure

PARTS = {
    "latency": "latency: real outcomes, time from the profile",
    "acceptance": "acceptance: outcomes from the trace, the run's own mean times",
    "control": "control: both the run's own",
    "machine": "machine: the run's forwards at what their like took in other runs",
    "host": "share of real time between forwards (information)",
}
_SIDES = ("real", "simulated", "error")
FIGURE_COLUMNS = ("tokens_per_s", "tokens_per_target_pass", "forwards_per_token")


def fidelity_table(overall: Mapping[str, Any]) -> list[list[str]]:
    """A row per figure: median and 95th percentile of the absolute error, bias, coverage; that of blocks where it is
    known."""
    return [
        [
            name,
            *(percent(stats[key]) for key in ("median", "p95")),
            percent(stats["bias"], "+"),
            percent(stats["coverage"]),
            percent(stats["coverage_of_blocks"]) if "coverage_of_blocks" in stats else "",
        ]
        for name, stats in overall["figures"].items()
    ]


def batch_table(overall: Mapping[str, Any]) -> list[list[str]]:
    """A row per batch: errors of tokens_per_s, ranking and regret."""
    return [
        [batch, str(s["configurations"]), percent(s["median_error"]), percent(s["p95_error"]),
         percent(s["bias"], "+"), *(f"{s[tau]:.3f}" for tau in TAUS), percent(s["regret"])]
        for batch, s in overall["by_batch"].items()
    ]  # fmt: skip


def budget_table(overall: Mapping[str, Any]) -> list[list[str]]:
    """A row per part of the error."""
    return [
        [text, percent(overall["budget"][part]["median"]), percent(overall["budget"][part]["p95"]),
         percent(overall["budget"][part]["bias"], "+")]
        for part, text in PARTS.items()
    ]  # fmt: skip


def context_table(overall: Mapping[str, Any]) -> list[list[str]]:
    """A row per range of contexts."""
    return [
        [f"{s['from']:.0f} to {s['to']:.0f}", str(s["prompts"]), percent(s["median"]), percent(s["bias"], "+")]
        for s in overall["by_context"]
    ]


def goals_table(overall: Mapping[str, Any]) -> list[list[str]]:
    """A row per goal: what was reached, what was aimed at, and the verdict."""
    found = []
    for each in overall["goals"]:
        shown = percent if each["share"] else _plain
        ends = (("at least", each["least"]), ("at most", each["most"]))
        aim = ", ".join(f"{word} {shown(end)}" for word, end in ends if end is not None)
        found.append([each["goal"], shown(each["value"]), aim, "met" if each["met"] else "missed"])
    return found


def level_columns(rows: pd.DataFrame) -> list[str]:
    """The figures of each level: which share of what it verified it accepted, and its time."""
    names = [str(column).removesuffix("_error") for column in rows if str(column).endswith("_error")]
    return sorted(name for name in names if name.startswith(("matched_per_drafted_", "level_")))


CONTEXT_HEAD = ("context, tokens", "decoded prompts", "median error", "bias")
GOALS_HEAD = ("goal", "reached", "aim", "verdict")
FIDELITY_HEAD = ("figure", "median error", "p95 error", "bias", "in the 95 % interval", "blocks in theirs")
TAUS = {
    "kendall_tau": "Kendall tau",
    "kendall_tau_real_outcomes": "with real outcomes",
    "kendall_tau_real_times": "with real times",
}
BATCH_HEAD = ("batch", "configurations", "median error", "p95 error", "bias", *TAUS.values(), "regret")
BUDGET_HEAD = ("part", "median error", "p95 error", "bias")
FORWARDS_HEAD = (
    *("layers", "batch", "query tokens in all", "read out", "forwards", "real ms", "simulated ms", "error"),
    *("share of all time", "share of all error"),
)
MOST_FORWARDS = 20


def validation_page(
    rows: pd.DataFrame, forwards: pd.DataFrame, overall: Mapping[str, Any], provenance: Mapping[str, Any]
) -> str:
    """The page's text; `rows`, `forwards` and `overall` as `hispec validate` writes them."""
    stats = overall["figures"]["tokens_per_s"]
    sentence = (
        f"Over {overall['configurations']} configurations the simulated tokens_per_s differs from the real one by "
        f"{percent(stats['median'])} in the median and {percent(stats['p95'])} at the 95th percentile; the largest "
        f"part of the error is {overall['largest_term']}."
    )
    sides = "Real: median over repeats [least, greatest]. Simulated: prediction [95 % interval]."
    levels = level_columns(rows)
    by_level = (
        "matched_per_drafted_k: share of the tokens that level k verified which it accepted. level_k_ms_per_token: "
        "forwards that reach its exit, with the gaps behind them. Level 0 drafts."
    )
    sections = [
        Section(
            "Goals",
            tables=[text_table(GOALS_HEAD, goals_table(overall), "What predictions should come to.")],
        ),
        Section(
            "Errors",
            tables=[text_table(FIDELITY_HEAD, fidelity_table(overall), "Simulated / real - 1, over configurations.")],
            pictures=[Picture("scatter", "real against simulated", scatter_figure(rows))],
        ),
        Section(
            "Ranking",
            tables=[text_table(BATCH_HEAD, batch_table(overall),
                           "Regret: how much slower the simulator's choice really is than the real best.")],
        ),
        Section(
            "Error budget",
            tables=[text_table(BUDGET_HEAD, budget_table(overall),
                               "Error of tokens_per_s when all but one part is real."),
                    text_table(CONTEXT_HEAD, context_table(overall),
                               "By context: single prompts, with real outcomes at the profile's prices.")],
            pictures=[Picture("factors", "error of tokens_per_s by factor", factor_figure(rows))],
        ),
        Section(
            "Forwards",
            tables=[PageTable(FORWARDS_HEAD, list(map(_forward_cells, forwards[:MOST_FORWARDS].to_dict("records"))),
                              "Those whose prices err most in all. Real: mean, with the gap behind it.")],
        ),
        Section("Configurations", tables=[_by_configuration(rows, FIGURE_COLUMNS, sides)]),
        Section("Levels", tables=[_by_configuration(rows, levels, by_level)]),
        Section("Provenance", tables=[text_table(("", ""), [[key, str(v)] for key, v in provenance.items()], "")]),
    ]  # fmt: skip
    return render(Page(f"Validation: {provenance.get('design', '')}", sentence, sections))


def _forward_cells(row: Mapping[Any, Any]) -> list[Cell]:
    shape = [str(row[name]) for name in ("batch", "tokens", "logits", "forwards")]
    times = [Cell(f"{row[name]:.3f}", float(row[name])) for name in ("real_ms", "simulated_ms")]
    shares = [
        Cell(percent(row[name], sign), float(row[name]))
        for name, sign in (("error", "+"), ("time_share", ""), ("error_share", "+"))
    ]
    return [Cell(f"({row['first_layer']}, {row['last_layer']}]"), *map(Cell, shape), *times, *shares]


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> PageTable:
    """A table of plain text."""
    return PageTable(headings, [[Cell(text) for text in row] for row in rows], caption)


def _by_configuration(rows: pd.DataFrame, figures: Sequence[str], caption: str) -> PageTable:
    """A row per configuration, each figure real, simulated and its error."""
    head = ("configuration", *(f"{name}, {side}" for name in figures for side in _SIDES))
    return PageTable(head, [_cells(row, figures) for row in rows.to_dict("records")], caption)


def _cells(row: Mapping[Any, Any], figures: Sequence[str]) -> list[Cell]:
    cells = [Cell(str(row["configuration"]))]
    for name in figures:
        for side in ("real", "sim"):
            value, low, high = (row[f"{name}_{side}{end}"] for end in ("", "_low", "_high"))
            cells.append(Cell("-") if math.isnan(value) else Cell(f"{value:.3g} [{low:.3g}, {high:.3g}]", float(value)))
        error = row[f"{name}_error"]
        cells.append(Cell(percent(error, "+"), None if math.isnan(error) else float(error)))
    return cells


def _plain(number: float) -> str:
    return f"{number:.3f}"


def percent(share: float, sign: str = "") -> str:
    """A share in per cent, `-` if there is none."""
    return "-" if math.isnan(share) else f"{100 * share:{sign}.2f} %"
