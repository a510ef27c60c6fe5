"""Figures of published against simulated numbers, from plain tables alone.

`checks` has a row per check: group, reading, role ("stated" or "best", empty for the other readings), name,
published, simulated, error, tolerance, hit, absolute, detail.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hispec_sim.report.figures import COLOURS, GREY, STYLE
from hispec_sim.report.sweep_figures import Picture

_ROLES = (("stated", "stated reading", COLOURS[0], "o"), ("best", "best-fitting reading", COLOURS[5], "s"))


def draw_published(checks: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw every figure that `checks` has rows for into `folder`; returns the files."""
    drawn: list[Path] = []
    with mpl.rc_context(STYLE):
        for picture in published_pictures(checks).values():
            drawn.append(folder / f"paper_{picture.name}.png")
            picture.figure.savefig(drawn[-1], dpi=130)
    return drawn


def published_pictures(checks: pd.DataFrame) -> dict[str, Picture]:
    """Every figure that `checks` has rows for, by the key of its group; that of all groups has the key ''."""
    with mpl.rc_context(STYLE):
        return {
            group: Picture(name, name.replace("_", " "), draw(rows))
            for group, name, draw in _FIGURES
            if len(rows := checks[checks["group"] == group] if group else checks[~checks["absolute"]])
        }


def scatter_figure(checks: pd.DataFrame) -> Figure:
    """Every ratio and speedup that was printed or backs one up, published against simulated."""
    kept = checks[(~checks["absolute"]) & (checks["role"] != "") & ~checks["name"].str.contains(" ms,|relative")]
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    left = figure.add_subplot(1, 2, 1)
    all_axes = (left, figure.add_subplot(1, 2, 2, sharex=left, sharey=left))
    low, high = 0.9, 1.1 * kept[["published", "simulated"]].max().max()
    groups = list(dict.fromkeys(checks["group"]))
    for axes, (role, title, _, _) in zip(all_axes, _ROLES, strict=True):
        shown = kept[kept["role"].str.contains(role)]
        axes.fill_between([low, high], [0.9 * low, 0.9 * high], [1.1 * low, 1.1 * high], color="#eeeeee")
        axes.plot([low, high], [low, high], color="black", linewidth=0.8)
        for (group, rows), marker in zip(shown.groupby("group"), "osD^vPX*", strict=False):
            colour = COLOURS[groups.index(str(group)) % len(COLOURS)]
            axes.scatter(
                rows["published"], rows["simulated"], s=22, color=colour, marker=marker, label=str(group), alpha=0.8
            )
        axes.set(xscale="log", yscale="log", xlabel="published", title=title)
        axes.grid(axis="both", color="#eeeeee")
        _plain_ticks(axes, low, high)
    left.set_ylabel("simulated (grey: within 10 %)")
    left.legend(frameon=False, fontsize=9)
    return figure


def curve_figure(checks: pd.DataFrame) -> Figure:
    """Throughput by draft exit layer, each curve over its own mean."""
    points = checks[checks["detail"]]
    points = points.assign(exit_layer=points["name"].str.rsplit(" ", n=1).str[-1].astype(int))
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    by_exit = points.groupby("exit_layer")
    axes.fill_between(
        by_exit["simulated"].min().index,
        by_exit["simulated"].min().to_numpy(),
        by_exit["simulated"].max().to_numpy(),
        color="#e6e6e6",
        label="all readings",
    )
    for role, label, colour, marker in _ROLES:
        rows = points[points["role"].str.contains(role)]
        axes.plot(rows["exit_layer"], rows["simulated"], marker + "-", ms=3.5, color=colour, label=_label(label, rows))
    published = by_exit["published"].first()
    axes.plot(published.index, published.to_numpy(), "-", color="black", linewidth=2, label="published")
    axes.set(xlabel="draft exit layer (of 48)", ylabel="throughput over the curve's mean")
    axes.set_title("CodeLlama-34B, single-layer speculation (HiSpec Figure 6)", loc="left")
    axes.grid(axis="y", color="#dddddd")
    axes.legend(frameon=False, fontsize=9)
    return figure


def bars(title: str, keep: str, strip: str = "") -> Callable[[pd.DataFrame], Figure]:
    """A figure of the checks whose name contains `keep`: the published number as a line, both readings as markers."""

    def draw(checks: pd.DataFrame) -> Figure:
        rows = checks[checks["name"].str.contains(keep, regex=False) & ~checks["absolute"]]
        names = list(dict.fromkeys(rows["name"]))[::-1]
        figure = Figure(figsize=(8, 2.0 + 0.33 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        published = rows.groupby("name")["published"].first()
        axes.barh(range(len(names)), published[names].to_numpy(), height=0.6, color="#d9d9d9", label="published")
        spread = rows.groupby("name")["simulated"].agg(["min", "max"])
        for row, name in enumerate(names):
            axes.plot(
                spread.loc[name].to_numpy(), [row, row], color=GREY, lw=1.5, label="all readings" if not row else None
            )
        for role, label, colour, marker in _ROLES:
            shown = rows[rows["role"].str.contains(role)].set_index("name")["simulated"]
            kept = rows[rows["role"].str.contains(role)]
            axes.plot(shown[names], range(len(names)), marker, color=colour, label=_label(label, kept))
        axes.set_yticks(range(len(names)), [name.replace(strip, "") for name in names])
        axes.set_xlim(0, 1.15 * max(published.max(), rows[rows["role"] != ""]["simulated"].max()))
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=1)
        return figure

    return draw


def _label(label: str, rows: pd.DataFrame) -> str:
    return f"{label}: {rows['reading'].iloc[0]}" if len(rows) else label


def _plain_ticks(axes: Axes, low: float, high: float) -> None:
    ticks = [tick for tick in (1, 1.5, 2, 3, 4, 6, 8, 12, 16) if low <= tick <= high]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)


_FIGURES: tuple[tuple[str, str, Callable[[pd.DataFrame], Figure]], ...] = (
    ("", "scatter", scatter_figure),
    ("fig6", "exit_curve", curve_figure),
    (
        "table2",
        "verification_wall",
        bars("verification wall (HiSpec Table 2)", "t_verify / ", "t_verify / t_generate, "),
    ),
    (
        "table1",
        "hispec_over_layerskip",
        bars("HiSpec over LayerSkip (HiSpec Table 1)", "HiSpec / ", "HiSpec / LayerSkip, "),
    ),
    ("fig5b", "exit_order", bars("Llama-2-70B on CNN/DM (HiSpec Figure 5b)", "speedup", "speedup, ")),
    (
        "layerskip",
        "layerskip",
        bars("self-speculation over autoregressive (LayerSkip Table 1)", ", "),
    ),
)
