"""The map of when a hierarchy pays, from plain tables alone (`hierarchy_map.csv` and `hierarchy_points.csv`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hispec_sim.report.figures import COLOURS, STYLE

KINDS = ("autoregressive", "single layer", "HiSpec")
_SHADES = ("#d9d9d9", "#f6cf8a", "#7db7dd")
_DARK = ("#555555", "#a86d00", "#004a75")
_GAINS = (1.05, 1.1, 1.2, 1.3)
_SHAPES = {"executed": "o", "published": "D"}
_BOUNDARIES = ("single layer over autoregressive", "HiSpec over autoregressive", "HiSpec over single layer")


def draw_hierarchy(table: pd.DataFrame, points: pd.DataFrame, real_panels: dict[str, str], folder: Path) -> list[Path]:
    """Draw both figures into `folder`. `real_panels` names the panels of real networks and the network of each."""
    general = [panel for panel in dict.fromkeys(table["panel"]) if panel not in real_panels]
    files = []
    with mpl.rc_context(STYLE):
        for name, figure in (
            ("hierarchy_map", map_figure(table, general)),
            ("hierarchy_points", points_figure(table, points, real_panels)),
        ):
            files.append(folder / f"{name}.png")
            figure.savefig(files[-1], dpi=90)
    return files


def map_figure(table: pd.DataFrame, panels: Sequence[str]) -> Figure:
    """The general panels: columns by cost ratios, rows by verify slope."""
    rows = table.drop_duplicates("panel").set_index("panel").loc[list(panels)]
    slopes, costs = (
        list(dict.fromkeys(rows["verify_slope"])),
        list(dict.fromkeys(zip(rows["draft_cost"], rows["middle_cost"], strict=True))),
    )
    figure = Figure(figsize=(3 * len(costs) + 0.4, 3 * len(slopes) + 0.7), layout="constrained")
    all_axes = figure.subplots(len(slopes), len(costs), sharex=True, sharey=True, squeeze=False)
    for panel, row in rows.iterrows():
        place = slopes.index(row["verify_slope"]), costs.index((row["draft_cost"], row["middle_cost"]))
        _regions(all_axes[place], table[table["panel"] == panel])
        if place[0] == 0:
            all_axes[place].set_title(f"cost: draft {row['draft_cost']:g}, middle {row['middle_cost']:g}", fontsize=10)
        if place[1] == 0:
            all_axes[place].set_ylabel(f"verify slope {row['verify_slope']:g}\nagreement of the middle exit")
    for axes in all_axes[-1]:
        axes.set_xlabel("agreement of the draft exit")
    _legend(figure)
    return figure


def points_figure(table: pd.DataFrame, points: pd.DataFrame, real_panels: dict[str, str]) -> Figure:
    """Maps at the prices of real networks with their points, and all real speedups against the map's."""
    columns = 3
    figure = Figure(figsize=(4 * columns, 4 * (len(real_panels) // columns + 1) + 0.5), layout="constrained")
    all_axes = figure.subplots(len(real_panels) // columns + 1, columns, squeeze=False).ravel()
    for axes, (panel, network) in zip(all_axes, real_panels.items(), strict=False):
        _regions(axes, table[table["panel"] == panel])
        for _, each in points[points["network"] == network].groupby("point"):
            _mark(axes, each)
        axes.set_title(panel, fontsize=10)
        axes.set(xlabel="agreement of the draft exit", ylabel="agreement of the middle exit")
    _scatter(all_axes[len(real_panels)], points)
    for axes in all_axes[len(real_panels) + 1 :]:
        axes.remove()
    _legend(figure, marks=True)
    return figure


def real_winner(each: pd.DataFrame) -> int:
    """Which of `KINDS` was the fastest of those that a point compares, from its speedups by boundary."""
    real = each.set_index("boundary")["real"]
    single, hispec = (real.get(name, np.nan) for name in _BOUNDARIES[:2])
    if np.isnan(hispec) and np.isnan(single):
        return 2 if real.get(_BOUNDARIES[2], np.nan) > 1 else 1
    return int(np.nanargmax([1.0, single, hispec]))


def _regions(axes: Axes, cells: pd.DataFrame) -> None:
    wide = cells.assign(kind=cells["winner"].map(KINDS.index)).pivot(index="middle", columns="draft", values="kind")
    gain = cells.pivot(index="middle", columns="draft", values="gain")
    axes.pcolormesh(
        wide.columns, wide.index, wide.to_numpy(), cmap=ListedColormap(_SHADES), vmin=-0.5, vmax=2.5, shading="nearest"
    )
    lines = axes.contour(gain.columns, gain.index, gain.to_numpy(), levels=_GAINS, colors=_DARK[2], linewidths=0.8)
    axes.clabel(lines, fmt="%.2f", fontsize=7)
    axes.grid(visible=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")


def _mark(axes: Axes, each: pd.DataFrame) -> None:
    first = each.iloc[0]
    axes.plot(
        first["draft"], first["middle"], _SHAPES[first["kind"]], color=_DARK[real_winner(each)], markersize=7,
        markeredgecolor="white", markeredgewidth=1.2,
    )  # fmt: skip


def _scatter(axes: Axes, points: pd.DataFrame) -> None:
    for boundary, colour in zip(_BOUNDARIES, (COLOURS[1], COLOURS[2], COLOURS[0]), strict=True):
        for kind, shape in _SHAPES.items():
            rows = points[(points["boundary"] == boundary) & (points["kind"] == kind)]
            label = boundary if kind == "published" else None
            axes.plot(rows["real"], rows["as_run"], shape, color=colour, markersize=4, alpha=0.8, label=label)
    ends = points[["real", "as_run"]]
    corners = [0.9 * ends.min().min(), 1.1 * ends.max().max()]
    axes.plot(corners, corners, color="black", linewidth=0.8)
    axes.axhline(1, color="#999999", linewidth=0.8)
    axes.axvline(1, color="#999999", linewidth=0.8)
    axes.set(
        xscale="log", yscale="log", xlabel="speedup, real", ylabel="speedup, closed form, ways as run", aspect="equal"
    )
    ticks = [tick for tick in (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3) if corners[0] <= tick <= corners[1]]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_minor_locator(mpl.ticker.NullLocator())
    axes.legend(frameon=False, fontsize=7)


def _legend(figure: Figure, *, marks: bool = False) -> None:
    handles: list[Patch | Line2D] = [
        *(Patch(color=shade, label=f"{kind} is fastest") for kind, shade in zip(KINDS, _SHADES, strict=True)),
        Line2D([], [], color=_DARK[2], linewidth=0.8, label="HiSpec over the better of the others"),
    ]
    if marks:
        handles += [
            Line2D(
                [], [], marker=shape, color="black", linestyle="", label=f"{kind}; its colour: the fastest in reality"
            )
            for kind, shape in _SHAPES.items()
        ]
    figure.legend(handles=handles, frameon=False, fontsize=9, loc="outside lower center", ncols=3 if marks else 4)
