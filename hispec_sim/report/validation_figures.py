"""Figures of a validation, from its table alone (one row per configuration; see docs/validation.md)."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hispec_sim.report.figures import COLOURS, GREY, STYLE

FACTORS = {
    "draft_exit": "draft exit",
    "middle_exit": "middle exit",
    "draft_length": "draft length Nd",
    "verify_period": "verify period Ni",
    "batch": "batch",
    "max_new_tokens": "new tokens",
}
_MARKERS = "osD^vPX"


def scatter_figure(rows: pd.DataFrame) -> Figure:
    """tokens_per_s and tokens_per_target_pass, real against simulated, with the identity line."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 4.8), layout="constrained")
        for place, name in enumerate(("tokens_per_s", "tokens_per_target_pass"), 1):
            _scatter(figure.add_subplot(1, 2, place), rows, name)
    return figure


def _scatter(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    for (batch, each), colour, marker in zip(rows.groupby("batch"), COLOURS, _MARKERS, strict=False):
        real, simulated = each[f"{name}_real"], each[f"{name}_sim"]
        reach = [
            (simulated - each[f"{name}_sim_low"]).clip(lower=0),
            (each[f"{name}_sim_high"] - simulated).clip(lower=0),
        ]
        axes.errorbar(
            real, simulated, yerr=reach, fmt=marker, color=colour, markersize=4, linewidth=0.7, label=f"batch {batch}"
        )
    ends = rows[[f"{name}_real", f"{name}_sim"]]
    corners = [0.95 * ends.min().min(), 1.05 * ends.max().max()]
    axes.plot(corners, corners, color="black", linewidth=0.8)
    axes.set(xlabel=f"{name}, real", ylabel=f"{name}, simulated (95 % interval)")
    axes.legend(frameon=False)


def factor_figure(rows: pd.DataFrame) -> Figure:
    """Signed error of tokens_per_s by each factor of the design."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 2.6), layout="constrained")
        first: Axes | None = None
        for place, (factor, title) in enumerate(FACTORS.items(), 1):
            axes = figure.add_subplot(1, len(FACTORS), place, sharey=first)
            first = first or axes
            values = sorted(rows[factor].unique())
            groups = [100 * rows.loc[rows[factor] == value, "tokens_per_s_error"] for value in values]
            axes.boxplot(groups, tick_labels=[str(value or "-") for value in values], medianprops={"color": COLOURS[0]})
            axes.axhline(0, color=GREY, linewidth=0.8)
            axes.set_title(title, fontsize=9)
            axes.tick_params(labelsize=8)
        assert first is not None
        first.set_ylabel("error of tokens_per_s, %")
    return figure
