"""The page of a run, from its folder's files: the comparison, what assumed numbers decide, a request, provenance."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from hispec_sim.errors import InputError
from hispec_sim.report.figures import sensitivity_figure, speedup_figure, time_figure, wall_figure
from hispec_sim.report.page.render import Cell, Page, PageTable, Section, number, parameters_table
from hispec_sim.report.summary import VERSION, PolicySummary, Summary
from hispec_sim.report.sweep_figures import Picture
from hispec_sim.report.timeline_figure import timeline


def read_run(folder: Path) -> tuple[Summary, dict[str, pd.DataFrame]]:
    """The summary and the tables `steps` and `wall` of a run's folder. Raises InputError."""
    path = folder / "summary.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("version", VERSION) != VERSION:
            raise InputError(f"{path} has version {data['version']!r}, this program reads {VERSION}; run it again")
        summary = Summary.model_validate(data)
        tables = {name: pd.read_csv(folder / f"{name}.csv") for name in ("steps", "wall")}
    except InputError:
        raise
    except (OSError, ValueError, ValidationError) as error:
        lines = str(error).splitlines()
        raise InputError(f"{folder} is no run's results that can be read: {lines[0] if lines else error}") from None
    return summary, tables


def run_page(summary: Summary, tables: dict[str, pd.DataFrame]) -> Page:
    """The page."""
    best = max(summary.policies, key=lambda policy: policy.tokens_per_s.median)
    pictures = [_speedup(summary), Picture("time", "Where device time goes, by level", time_figure(summary))]
    if len(tables["wall"]):
        caption = "The verification wall: what one target pass costs in draft tokens"
        pictures.append(Picture("wall", caption, wall_figure(summary, tables["wall"])))
    timelines = [timeline(tables["steps"], policy.name, policy.levels, k) for k, policy in enumerate(summary.policies)]
    sections = [
        Section("The comparison", [summary.description] if summary.description else [], [_policies(summary)], pictures)
    ]
    if summary.sensitivity:
        figure = Picture("sensitivity", "How far each assumed number moves each policy", sensitivity_figure(summary))
        figure.figure.axes[0].tick_params(labelleft=True)
        for axes in figure.figure.axes[1:]:
            axes.tick_params(labelleft=False)
        sections.append(Section("What the assumed numbers decide", tables=[_sensitivity(summary)], pictures=[figure]))
    sections.append(Section("One request", pictures=timelines))
    sections.append(
        Section(
            "Assumptions and provenance",
            [
                "Intervals are over the simulated luck of acceptance and jitter alone: they hold neither the "
                "uncertainty of assumed numbers nor that of latency profiles.",
                *summary.notes,
            ],
            [parameters_table(summary.parameters)] if summary.parameters else [],
            code=json.dumps(
                {
                    "seed": summary.seed,
                    "repetitions": summary.repetitions,
                    "versions": summary.versions,
                    "networks": [network.model_dump() for network in summary.networks],
                    "scenario": summary.scenario,
                },
                indent=2,
            ),
        )
    )
    return Page(summary.scenario_name, _sentence(best, len(summary.policies)), sections)


def _sentence(best: PolicySummary, n_policies: int) -> str:
    speed = f"{best.tokens_per_s.median:.4g} tokens/s"
    if len(best.levels) == 1:
        return f"Do not speculate with these policies: autoregressive decoding is the fastest of {n_policies}, {speed}."
    single = best.speedup_vs_best_single_layer
    against = f", {single:.2f}x the best single-layer speculation among them" if single and len(best.levels) > 2 else ""
    return (
        f"Of {n_policies} policies, {best.name} is the fastest: {speed}, {best.speedup_vs_autoregressive:.2f}x "
        f"autoregressive decoding{against}. None of them was tuned; a sweep does that."
    )


def _speedup(summary: Summary) -> Picture:
    figure = speedup_figure(summary)
    tips = {}
    for k, (bar, policy) in enumerate(zip(figure.axes[0].patches, summary.policies[::-1], strict=True)):
        bar.set_gid(f"speedup_{k}")
        tips[f"speedup_{k}"] = "\n".join(
            [
                policy.name,
                f"{policy.tokens_per_s.median:.4g} tokens/s, {policy.tpot_ms.median:.3g} ms per token",
                f"{policy.tokens_per_target_pass:.2f} tokens per target pass",
            ]
        )
    return Picture("speedup", "Speedup over autoregressive decoding", figure, tips)


def _policies(summary: Summary) -> PageTable:
    rows = []
    for policy in summary.policies:
        speed, single = policy.tokens_per_s, policy.speedup_vs_best_single_layer
        rows.append(
            [
                Cell(policy.name),
                Cell(f"{speed.median:.1f} [{speed.low:.1f}, {speed.high:.1f}]", speed.median),
                number(policy.tpot_ms.median, ".3g"),
                number(policy.speedup_vs_autoregressive, ".2f"),
                Cell("-") if single is None else number(single, ".2f"),
                number(policy.tokens_per_target_pass, ".2f"),
                Cell(", ".join(f"{value:.2f}" for value in policy.matched_per_drafted.values()) or "-"),
                Cell(", ".join(f"{value:.0%}" for value in policy.time_share.values())),
            ]
        )
    headings = (
        "policy", "tokens/s", "ms/token", "x autoregressive", "x best single-layer", "tokens per target pass",
        "matched per drafted", "time share",
    )  # fmt: skip
    fastest = max(range(len(rows)), key=lambda k: summary.policies[k].tokens_per_s.median)
    return PageTable(headings, rows, "Median and 95 % interval over repetitions; per level, draft first.", fastest)


def _sensitivity(summary: Summary) -> PageTable:
    policies = [policy.name for policy in summary.policies if len(policy.levels) > 1]
    rows = [
        [
            Cell(point.parameter),
            number(point.value, ".3g"),
            Cell(point.best_policy),
            *(number(point.speedup_vs_autoregressive[name], ".2f") for name in policies),
        ]
        for point in summary.sensitivity
    ]
    return PageTable(("parameter", "at", "fastest", *policies), rows, "Speedup over autoregressive decoding.")
