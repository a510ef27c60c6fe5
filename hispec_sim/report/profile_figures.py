"""Figure of a latency profile: its points, the interpolation between them and a roofline. Plain arrays in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

Array = NDArray[Any]
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind
_GREY = "#555555"
_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel. `x`, `ms`, `measured`: the points, shape (n,). `line_*`: between them, or where there are
    none (n is 0) by themselves, shape (m,)."""

    label: str
    x: Array
    ms: Array
    measured: Array
    line_x: Array
    line_ms: Array
    roofline_ms: Array | None


@dataclass(frozen=True, slots=True)
class Panel:
    """One op: its curves over the axis named `x_label`."""

    title: str
    x_label: str
    curves: tuple[Curve, ...]


def draw_profile(title: str, panels: Sequence[Panel], path: str | Path) -> None:
    """Write the panels, three in a row, to `path` (the suffix picks the format)."""
    rows = math.ceil(len(panels) / _COLUMNS)
    figure = Figure(figsize=(4.6 * _COLUMNS, 3.5 * rows + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.legend(handles=_key(panels), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)


def _draw_panel(ax: Axes, panel: Panel) -> None:
    for curve, colour in zip(panel.curves, _COLOURS, strict=False):
        ax.plot(curve.line_x, curve.line_ms, color=colour, linewidth=1.2, label=curve.label)
        if curve.roofline_ms is not None:
            ax.plot(curve.line_x, curve.roofline_ms, color=colour, linewidth=0.9, linestyle="--", alpha=0.7)
        for kept, fill in ((curve.measured, colour), (~curve.measured, "white")):
            ax.scatter(curve.x[kept], curve.ms[kept], s=18, facecolor=fill, edgecolor=colour, linewidth=1, zorder=3)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_title(panel.title, fontsize=10)
    ax.set_xlabel(panel.x_label, fontsize=9)
    ax.set_ylabel("time (ms)", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.legend(fontsize=8, frameon=False)


def _key(panels: Sequence[Panel]) -> list[Line2D]:
    """What each mark means, of those that are drawn."""
    curves = [curve for panel in panels for curve in panel.curves]
    key = [
        (any(c.measured.any() for c in curves), _dot(_GREY, "measured")),
        (any((~c.measured).any() for c in curves), _dot("white", "derived")),
        (bool(curves), Line2D([], [], color=_GREY, linewidth=1.2, label="interpolation")),
        (
            any(c.roofline_ms is not None for c in curves),
            Line2D([], [], color=_GREY, linewidth=0.9, linestyle="--", label="roofline of the device's peaks"),
        ),
    ]
    return [mark for drawn, mark in key if drawn]


def _dot(fill: str, label: str) -> Line2D:
    return Line2D([], [], color="none", marker="o", markerfacecolor=fill, markeredgecolor=_GREY, label=label)
