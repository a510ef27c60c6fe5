"""The figures of a run, from its summary and tables alone. Colours are safe for the colour-blind (Okabe and Ito)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hispec_sim.report.summary import Summary

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
GREY = "#999999"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "svg.hashsalt": "hispec",
}


def draw_all(summary: Summary, wall: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw every figure that the run has data for into `folder`; returns the files."""
    drawn = [_draw(speedup_figure(summary), folder / "speedup.png"), _draw(time_figure(summary), folder / "time.png")]
    if len(wall):
        drawn.append(_draw(wall_figure(summary, wall), folder / "verification_wall.png"))
    if summary.sensitivity:
        drawn.append(_draw(sensitivity_figure(summary), folder / "sensitivity.png"))
    return drawn


def speedup_figure(summary: Summary) -> Figure:
    """Speedup over autoregressive decoding with the interval over repetitions."""
    policies = summary.policies[::-1]
    figure, axes = _figure(height=0.9 + 0.5 * len(policies))
    base = next(policy for policy in policies if len(policy.levels) == 1).tokens_per_s.median
    for row, policy in enumerate(policies):
        speed = policy.tokens_per_s
        axes.barh(row, speed.median / base, height=0.6, color=GREY if len(policy.levels) == 1 else COLOURS[0])
        axes.errorbar(
            speed.median / base,
            row,
            xerr=[[max(0.0, speed.median - speed.low) / base], [max(0.0, speed.high - speed.median) / base]],
            color="black",
            capsize=3,
        )
        axes.annotate(
            f"{speed.median / base:.2f}x   {speed.median:.1f} tokens/s",
            (speed.high / base, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(policies)), [policy.name for policy in policies])
    axes.set_xlim(0, 1.45 * max(policy.tokens_per_s.high for policy in policies) / base)
    axes.set_xlabel("speedup over autoregressive decoding (bar: 95 % interval over repetitions)")
    axes.set_title(summary.scenario_name, loc="left")
    return figure


def time_figure(summary: Summary) -> Figure:
    """Device milliseconds per committed token, divided among the levels."""
    policies = summary.policies[::-1]
    figure, axes = _figure(height=1.2 + 0.5 * len(policies))
    roles: dict[str, str] = {}
    for row, policy in enumerate(policies):
        ms_per_token, left = 1000 / policy.tokens_per_s.median, 0.0
        for k, (level, share) in enumerate(policy.time_share.items()):
            role = "target" if k == len(policy.levels) - 1 else "draft" if k == 0 else f"verifier {k}"
            colour = GREY if role == "target" else COLOURS[k]
            axes.barh(
                row,
                share * ms_per_token,
                left=left,
                height=0.6,
                color=colour,
                label=None if role in roles else role,
            )
            roles[role] = colour
            if share > 0.1:
                axes.text(left + share * ms_per_token / 2, row, level.split("@")[-1], ha="center", va="center")
            left += share * ms_per_token
    axes.set_yticks(range(len(policies)), [policy.name for policy in policies])
    axes.set_xlabel("device ms per committed token (number in a bar: exit layer)")
    axes.legend(frameon=False, ncols=len(roles), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def wall_figure(summary: Summary, wall: pd.DataFrame) -> Figure:
    """t_verify / t_draft over the number of tokens under verification, by tensor parallelism."""
    figure, axes = _figure(height=3.6)
    for colour, (tensor_parallel, points) in zip(COLOURS, wall.groupby("tensor_parallel"), strict=False):
        axes.plot(points["tokens"], points["ratio"], "o-", color=colour, label=f"TP {tensor_parallel}")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dddddd")
    axes.set_xlabel("tokens that the target verifies in one pass, K")
    axes.set_ylabel("t_verify / t_draft")
    draft = summary.scenario["wall"]["draft"]
    target = summary.policies[0].levels[-1].split("@")[0]
    axes.set_title(f"verification wall: one {target} pass in {draft} tokens", loc="left")
    axes.legend(frameon=False)
    return figure


def sensitivity_figure(summary: Summary) -> Figure:
    """How far each assumed number moves each speculative policy's speedup."""
    speculative = [policy for policy in summary.policies if len(policy.levels) > 1]
    names = list(dict.fromkeys(point.parameter for point in summary.sensitivity))
    figure, all_axes = _panels(len(speculative), height=1.2 + 0.32 * len(names))
    for axes, policy in zip(all_axes, speculative, strict=True):
        for row, name in enumerate(names[::-1]):
            low, high = (point for point in summary.sensitivity if point.parameter == name)
            ends = [point.speedup_vs_autoregressive[policy.name] for point in (low, high)]
            if ends[0] != ends[1]:
                axes.plot(ends, [row, row], color=GREY, linewidth=5, solid_capstyle="butt")
                axes.plot(ends[0], row, "o", color=COLOURS[0])
                axes.plot(ends[1], row, "s", color=COLOURS[1])
        axes.axvline(policy.speedup_vs_autoregressive, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(policy.name, loc="left", fontsize=9)
    all_axes[0].set_yticks(range(len(names)), names[::-1])
    figure.supxlabel("speedup over autoregressive, a parameter at its low (o) and high (square) end", fontsize=10)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, height), layout="constrained")
        return figure, figure.add_subplot()


def _panels(n: int, height: float) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(8.0, 2.6 * n + 2), height), layout="constrained")
        first = figure.add_subplot(1, n, 1)
        return figure, [first, *(figure.add_subplot(1, n, k, sharex=first, sharey=first) for k in range(2, n + 1))]


def _draw(figure: Figure, path: Path) -> Path:
    for axes in figure.axes[1:]:
        axes.tick_params(labelleft=False)
    with mpl.rc_context(STYLE):
        figure.savefig(path, dpi=130)
    return path
