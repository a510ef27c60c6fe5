"""Figure of kernels under a roofline: how much work per byte, how much work per second. Plain numbers in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_MARKERS = "os^Dv<>Phxd*p+"


@dataclass(frozen=True, slots=True)
class Dot:
    """One class of kernels in one step."""

    step: str
    name: str
    flops_per_byte: float
    flops_per_s: float


def draw_roofline(title: str, dots: Sequence[Dot], bytes_per_s: float, flops_per_s: float, path: Path) -> None:
    """Write the figure to `path`; a colour for each step, a mark for each class."""
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    ax = figure.subplots()
    shown = [dot.flops_per_byte for dot in dots] or [1.0]
    x = np.geomspace(min(shown) / 3, max(*shown, flops_per_s / bytes_per_s) * 3, 100)
    ax.plot(
        x, np.minimum(x * bytes_per_s, flops_per_s) / 1e9, color="#555555", linewidth=1.4, label="measured ceilings"
    )
    steps, names = list(dict.fromkeys(d.step for d in dots)), list(dict.fromkeys(d.name for d in dots))
    for dot in dots:
        colour = _COLOURS[steps.index(dot.step) % len(_COLOURS)]
        marker = _MARKERS[names.index(dot.name) % len(_MARKERS)]
        ax.plot(dot.flops_per_byte, dot.flops_per_s / 1e9, marker, color=colour, markersize=7,
                label=f"{dot.step}: {dot.name}")  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_title(title, fontsize=11)
    ax.set_xlabel("FLOP per byte")
    ax.set_ylabel("GFLOP/s")
    ax.grid(alpha=0.25, linewidth=0.5)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
