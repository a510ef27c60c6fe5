"""The page of a sweep: its recommendation, the points that compete, pictures, a request, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hispec_sim.report.page.render import Cell, Page, PageTable, Section, number, parameters_table
from hispec_sim.report.recommendation import TITLES, Recommendation, choice_text
from hispec_sim.report.summary import ParameterSummary
from hispec_sim.report.sweep_figures import Picture

MAX_ROWS = 500


def sweep_page(
    title: str,
    answer: Recommendation,
    points: pd.DataFrame,
    axes: Sequence[str],
    pictures: Sequence[Picture],
    timeline: Picture,
    parameters: Sequence[ParameterSummary],
    provenance: Mapping[str, Any],
) -> Page:
    """`points` are those that compete, with their design (`sweep_figures.with_design`); `axes` are axis columns."""
    config = answer.speculative_config
    return Page(
        title,
        answer.sentence,
        [
            Section("What was compared", tables=[_choices(answer)], paragraphs=answer.notes),
            *([Section("For vLLM", code=f"--speculative-config '{json.dumps(config)}'")] if config else []),
            Section(
                "How sure",
                ["Each input is varied alone. A flip means that another kind of decoding would be advised."],
                [_inputs(answer)] if answer.inputs else [],
                [picture for picture in pictures if picture.name == "tornado"],
            ),
            Section("The design space", pictures=[picture for picture in pictures if picture.name != "tornado"]),
            Section("One request", ["As the recommended configuration decodes it."], pictures=[timeline]),
            Section("All points", tables=[_points(points, axes, answer.objective)]),
            Section(
                "Assumptions and provenance",
                [
                    "Intervals are over the simulated luck of acceptance and jitter alone (over prompts where a trace "
                    "is replayed); what the inputs' own uncertainty does is under How sure.",
                    "Decoding only: prefill is not simulated, every request begins with its prompt in all caches.",
                ],
                [parameters_table(parameters)] if parameters else [],
                code=json.dumps(provenance, indent=2, default=str),
            ),
        ],
    )


def _choices(answer: Recommendation) -> PageTable:
    rows = []
    for choice in answer.choices:
        margin, speed, own = choice.recommended_over_this, choice.tokens_per_s, choice.role == answer.advice
        rows.append(
            [
                Cell(TITLES[choice.role]),
                Cell(choice_text(answer, choice)),
                Cell(f"{speed.median:.1f} [{speed.low:.1f}, {speed.high:.1f}]", speed.median),
                number(choice.tpot_ms.median, "#.3g"),
                Cell("" if own else f"{margin.ratio:.3f}x [{margin.low:.3f}, {margin.high:.3f}]", margin.ratio),
                number(choice.n_points, ",d"),
            ]
        )
    headings = ("kind", "configuration", "tokens/s", "ms/token", "recommended over this", "points compared")
    bold = next(k for k, choice in enumerate(answer.choices) if choice.role == answer.advice)
    caption = (
        f"The best of each kind, {answer.repetitions} repetitions on the event-driven engine, all with the same luck, "
        "by which no point was chosen. The paper's default: HiSpec, arXiv 2510.01336."
    )
    return PageTable(headings, rows, caption, bold)


def _inputs(answer: Recommendation) -> PageTable:
    rows = []
    for effect in answer.inputs:
        pairs = ((effect.flips_below, effect.advice_below), (effect.flips_above, effect.advice_above))
        flips = [f"{at:.3g}: {TITLES[advice]}" for at, advice in pairs if at is not None and advice is not None]
        rows.append(
            [
                Cell(effect.name),
                Cell(f"{effect.value:.3g} {effect.unit}", effect.value),
                Cell(f"{effect.low:.3g}\u00a0to\u00a0{effect.high:.3g}"),
                number(effect.advantage_at_low, ".3f"),
                number(effect.advantage_at_high, ".3f"),
                Cell("; ".join(flips) or "no flip"),
                Cell(effect.source),
            ]
        )
    headings = ("input", "value", "range", "advantage at low", "advantage at high", "flips at", "why this range")
    return PageTable(
        headings,
        rows,
        "Advantage: the recommended configuration's speed over the best other kind's. No flip: within the range.",
    )


def _points(points: pd.DataFrame, axes: Sequence[str], objective: str) -> PageTable:
    ranked = points.sort_values([objective, "point"], ascending=[objective == "tpot_ms", True])
    used = [name for name in axes if points[name].notna().any()]
    rows = [
        [
            Cell(str(row["policy"])),
            *(_axis(row[name]) for name in used),
            number(row["tokens_per_s"], "#.4g"),
            number(row["tpot_ms"], "#.3g"),
            number(row["tokens_per_target_pass"], ".2f"),
            Cell(str(row["engine"])),
        ]
        for row in ranked.head(MAX_ROWS).to_dict("records")
    ]
    left = f", the best {MAX_ROWS} of {len(ranked):,}" if len(ranked) > MAX_ROWS else ""
    caption = f"Points under the conditions of the recommendation{left}. A click on a heading sorts."
    return PageTable(("policy", *used, "tokens/s", "ms/token", "tokens per target pass", "engine"), rows, caption)


def _axis(value: Any) -> Cell:
    if isinstance(value, str):
        return Cell(value)
    return Cell("") if pd.isna(value) else Cell(f"{value:g}", float(value))
