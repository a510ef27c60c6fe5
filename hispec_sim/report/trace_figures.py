"""Figure of an agreement trace: agreement by exit and since a rejection, runs, autocorrelation. Plain arrays in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind


@dataclass(frozen=True, slots=True)
class ExitCurves:
    """One exit: agreement with standard errors by tokens agreed before, shares of runs at least so long, and
    autocorrelation by lag from 1."""

    name: str
    since: Sequence[float]
    since_error: Sequence[float]
    run_at_least: Sequence[float]
    autocorrelation: Sequence[float]


def draw_trace(
    title: str,
    exits: Sequence[str],
    shares: Sequence[float],
    errors: Sequence[float],
    curves: Sequence[ExitCurves],
    path: Path,
) -> None:
    """Write four panels to `path` (the suffix picks the format)."""
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    by_exit, since, runs, lags = figure.subplots(2, 2).ravel()
    by_exit.errorbar(range(len(exits)), shares, yerr=errors, fmt="o", markersize=4, color=_COLOURS[0], capsize=2)
    by_exit.set_xticks(range(len(exits)), exits, rotation=90 if len(exits) > 8 else 0)
    _style(by_exit, "agreement with the target, by exit", "exit", "share of positions")
    for curve, colour in zip(curves, _COLOURS, strict=False):
        places = np.arange(len(curve.since))
        since.errorbar(places, curve.since, yerr=curve.since_error, color=colour, capsize=2, label=curve.name)
        runs.plot(np.arange(len(curve.run_at_least)), curve.run_at_least, color=colour, label=curve.name)
        lags.plot(1 + np.arange(len(curve.autocorrelation)), curve.autocorrelation, color=colour, label=curve.name)
    _style(since, "agreement after so many agreed tokens", "tokens agreed since the last rejection", "share")
    _style(runs, "runs of agreement", "tokens", "share of runs at least so long")
    _style(lags, "autocorrelation of agreement", "lag (tokens)", "correlation")
    for ax in (since, runs, lags):
        ax.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def _style(ax: Axes, title: str, x_label: str, y_label: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(x_label, fontsize=9)
    ax.set_ylabel(y_label, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.25, linewidth=0.5)
