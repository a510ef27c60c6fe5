"""The pictures of a sweep, from its plain table: heatmaps, the Pareto front, speedup against concurrency.

Colours are safe for the colour-blind and fall in lightness, so that they are read in grey print too; what is marked is
marked by shape. Each picture comes with tips: what a reader sees who points at a part of it, by the part's id in SVG.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hispec_sim.report.figures import COLOURS, GREY, STYLE
from hispec_sim.report.recommendation import KINDS, TITLES, levels_text

COLOURMAP = "cividis"
MAX_CELLS = 1600
MAX_TIPS = 400
"""Points of a scatter that say what they are; the rest is drawn as one."""
MARKERS = {"autoregressive": "s", "single_layer": "^", "hierarchy": "o"}
KIND_COLOURS = dict(zip(KINDS, (GREY, COLOURS[1], COLOURS[0]), strict=True))
DESIGN = {
    "draft exit": "exit layer of the draft",
    "middle exit": "exit layer of the early verifier",
    "Nd": "draft length Nd",
    "Ni": "verify period Ni",
}
"""Columns that `with_design` adds, and their axis labels."""
UNITS = {"tokens_per_s": "tokens/s", "tpot_ms": "ms per output token"}
HEATMAPS = (("draft exit", "middle exit"), ("draft exit", "Ni"), ("middle exit", "Ni"), ("Nd", "Ni"))


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure, its file name without ending, and the tips of its parts by their id."""

    name: str
    caption: str
    figure: Figure
    tips: dict[str, str] = field(default_factory=dict)


def with_design(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its kind of decoding and the `DESIGN` columns of its levels, NaN where a point has none."""
    levels = [json.loads(text) for text in table["levels"]]
    added: dict[str, list[Any]] = {
        "kind": [KINDS[min(len(given), 3) - 1] for given in levels],
        "what": [levels_text(given) for given in levels],
        "draft exit": [_own(given, 0) for given in levels],
        "middle exit": [_own(given, 1) if len(given) == 3 else np.nan for given in levels],
        "Nd": [given[1]["verify_period"] if len(given) > 1 else np.nan for given in levels],
        "Ni": [given[2]["verify_period"] if len(given) == 3 else np.nan for given in levels],
    }
    return pd.concat([table, pd.DataFrame(added, index=table.index)], axis=1)


def heatmap(
    points: pd.DataFrame, x: str, y: str, *, value: str = "tokens_per_s", default: Mapping[str, float] | None = None
) -> Picture | None:
    """The best `value` for each pair of `x` and `y` over all else; None unless both vary in the points.

    `points` are those of one kind, with unique labels of `x` and `y`; `default` is the paper's place in them.
    """
    known = points.dropna(subset=[x, y, value])
    xs, ys = (sorted(known[name].unique().tolist()) for name in (x, y))
    if len(xs) < 2 or len(ys) < 2 or len(xs) * len(ys) > MAX_CELLS:
        return None
    less = value == "tpot_ms"
    best = known.sort_values([value, "point"], ascending=[less, True]).drop_duplicates([x, y])
    name = f"heatmap_{_slug(x)}_{_slug(y)}"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(min(11.0, 2.9 + 0.62 * len(xs)), min(9.0, 1.7 + 0.42 * len(ys))), layout="constrained")
        axes = figure.add_subplot()
        scale = Normalize(best[value].min(), best[value].max())
        colours = ScalarMappable(scale, COLOURMAP)
        tips: dict[str, str] = {}
        for number, row in enumerate(best.to_dict("records")):
            column, line = xs.index(row[x]), ys.index(row[y])
            cell = Rectangle((column - 0.5, line - 0.5), 1, 1, facecolor=colours.to_rgba(row[value]), edgecolor="white")
            cell.set_gid(f"{name}_{number}")
            tips[f"{name}_{number}"] = _tip(row, {x: row[x], y: row[y]})
            axes.add_patch(cell)
            if len(xs) * len(ys) <= 150:
                light = scale(row[value]) > 0.55
                axes.text(
                    column, line, _digits(row[value]), ha="center", va="center", color="black" if light else "white",
                    fontsize=8,
                )  # fmt: skip
        top = best.iloc[0]
        _frame(axes, xs.index(top[x]), ys.index(top[y]), "solid", f"best: {_digits(top[value], 4)} {UNITS[value]}")
        if default is not None and default.get(x) in xs and default.get(y) in ys:
            _frame(axes, xs.index(default[x]), ys.index(default[y]), "dashed", "the paper's default")
        axes.set_xlim(-0.5, len(xs) - 0.5)
        axes.set_ylim(-0.5, len(ys) - 0.5)
        _ticks(axes, xs, ys)
        axes.set_xlabel(DESIGN.get(x, x))
        axes.set_ylabel(DESIGN.get(y, y))
        axes.grid(visible=False)
        figure.colorbar(colours, ax=axes, label=UNITS[value])
        figure.legend(frameon=False, ncols=2, loc="outside upper center", fontsize=9)
    return Picture(
        name, f"Best {UNITS[value]} over all else, by {DESIGN.get(x, x)} and {DESIGN.get(y, y)}", figure, tips
    )


def pareto(points: pd.DataFrame, limit_ms: float | None = None, recommended: str = "") -> Picture | None:
    """tokens_per_s against tpot_ms with the front: points than which none is both faster and quicker.

    `limit_ms` is that of the latency, `recommended` a point to mark. None at a single concurrency, where one is the
    reciprocal of the other.
    """
    if points["concurrency"].nunique() < 2:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.add_subplot()
        front = pareto_front(points)
        shown = front["point"].tolist() + points.nlargest(MAX_TIPS, "tokens_per_s")["point"].tolist()
        with_tip = set(shown[:MAX_TIPS])
        tips: dict[str, str] = {}
        for kind in KINDS:
            mine = points[points["kind"] == kind]
            style: dict[str, Any] = {
                "marker": MARKERS[kind], "color": KIND_COLOURS[kind], "linestyle": "none", "markersize": 5,
                "markeredgecolor": "white", "markeredgewidth": 0.4,
            }  # fmt: skip
            rest = mine[~mine["point"].isin(with_tip)]
            axes.plot(rest["tpot_ms"], rest["tokens_per_s"], **style, label=TITLES[kind] if len(mine) else None)
            for row in mine[mine["point"].isin(with_tip)].to_dict("records"):
                (mark,) = axes.plot(row["tpot_ms"], row["tokens_per_s"], **style)
                mark.set_gid(f"pareto_{len(tips)}")
                tips[f"pareto_{len(tips)}"] = _tip(row, {"concurrency": row["concurrency"]})
        chosen = points[points["point"] == recommended]
        if len(chosen):
            axes.plot(
                chosen["tpot_ms"], chosen["tokens_per_s"], "o", markersize=13, markerfacecolor="none",
                markeredgecolor=COLOURS[5], markeredgewidth=2, linestyle="none", label="recommended",
            )  # fmt: skip
        if limit_ms is not None:
            axes.axvline(limit_ms, color="black", linewidth=1, linestyle="--", label=f"limit: {limit_ms:g} ms")
        axes.step(front["tpot_ms"], front["tokens_per_s"], where="post", color="black", linewidth=1, label="front")
        axes.grid(visible=True, axis="both")
        axes.set_xlabel("milliseconds per output token of one sequence (less is better)")
        axes.set_ylabel("tokens/s of all sequences (more is better)")
        figure.legend(frameon=False, ncols=3, loc="outside upper center", fontsize=9)
    return Picture("pareto", "Throughput against latency; on the black line nothing is better in both", figure, tips)


def pareto_front(points: pd.DataFrame) -> pd.DataFrame:
    """Points that no other beats in both tokens_per_s and tpot_ms, from the quickest on."""
    ranked = points.sort_values(["tpot_ms", "tokens_per_s"], ascending=[True, False])
    before = ranked["tokens_per_s"].astype(float).cummax().shift(fill_value=-np.inf)
    return ranked[ranked["tokens_per_s"] > before]


def speedup(points: pd.DataFrame) -> Picture | None:
    """The best of each kind over autoregressive decoding, by concurrency; None where concurrency does not vary."""
    best = points.groupby(["concurrency", "kind"])["tokens_per_s"].max().unstack("kind")
    if len(best) < 2 or "autoregressive" not in best:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.add_subplot()
        tips: dict[str, str] = {}
        for kind in KINDS[1:]:
            if kind not in best:
                continue
            ratio = (best[kind] / best["autoregressive"]).dropna()
            style: dict[str, Any] = {"color": KIND_COLOURS[kind], "marker": MARKERS[kind]}
            axes.plot(ratio.index, ratio, **style, label=f"the best {TITLES[kind].removeprefix('a ')}")
            for concurrency, value in zip(ratio.index.tolist(), ratio.tolist(), strict=True):
                (mark,) = axes.plot(concurrency, value, **style)
                mark.set_gid(f"speedup_{len(tips)}")
                tips[f"speedup_{len(tips)}"] = f"{TITLES[kind]} at concurrency {concurrency}: {value:.2f}x"
        axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xticks(best.index.tolist(), [str(concurrency) for concurrency in best.index], minor=False)
        axes.minorticks_off()
        axes.set_ylim(0, 1.08 * float(np.nanmax(best.div(best["autoregressive"], axis=0))))
        axes.grid(visible=True, axis="both")
        axes.set_xlabel("concurrency: sequences that decode at a time")
        axes.set_ylabel("speedup over autoregressive")
        figure.legend(frameon=False, ncols=2, loc="outside upper center", fontsize=9)
    return Picture("speedup", "Speedup over autoregressive decoding of the best of each kind", figure, tips)


def _own(levels: Sequence[Mapping[str, Any]], k: int) -> float:
    """Exit layer of level k if it is an exit of the target's network, above which there is another level."""
    if k >= len(levels) - 1 or levels[k]["network"] != levels[-1]["network"]:
        return np.nan
    return float(levels[k]["exit_layer"])


def _frame(axes: Axes, column: int, line: int, style: str, label: str) -> None:
    inset = 0.44 if style == "solid" else 0.36
    for width, colour, named in ((4.0, "white", None), (2.0, COLOURS[5], label)):
        axes.add_patch(
            Rectangle(
                (column - inset, line - inset), 2 * inset, 2 * inset, fill=False, edgecolor=colour, linewidth=width,
                linestyle=style, label=named, zorder=3,
            )
        )  # fmt: skip


def _ticks(axes: Axes, xs: Sequence[Any], ys: Sequence[Any]) -> None:
    names = [
        [f"{value:g}" if isinstance(value, int | float) else str(value) for value in values] for values in (xs, ys)
    ]
    long = max(map(len, names[0])) > 6
    axes.set_xticks(range(len(xs)), names[0], rotation=30 if long else 0, ha="right" if long else "center")
    axes.set_yticks(range(len(ys)), names[1])


def _tip(row: Mapping[Any, Any], more: Mapping[str, Any]) -> str:
    named = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in more.items()]
    speed = f"{row['tokens_per_s']:.4g} tokens/s, {row['tpot_ms']:.3g} ms per token"
    return "\n".join((f"{row['policy']}: {row['what']}", ", ".join(named), speed))


def _digits(value: float, digits: int = 3) -> str:
    """So many digits, zeros at the end too, so that neighbours line up."""
    return f"{value:#.{digits}g}".rstrip(".")


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name).lower()


def pictures(
    points: pd.DataFrame,
    loads: pd.DataFrame,
    axes: Sequence[tuple[str, str]],
    *,
    limit_ms: float | None = None,
    recommended: str = "",
    **options: Any,
) -> Iterator[Picture]:
    """Every picture that there is data for, options as for `heatmap` and `pareto`; `axes` are pairs for more heatmaps.

    `points` compete with one another, `loads` are the same at every concurrency; both have their design.
    """
    kinds = {kind: points[points["kind"] == kind] for kind in KINDS}
    drawn = [heatmap(kinds["hierarchy"], x, y, **options) for x, y in HEATMAPS]
    if all(picture is None for picture in drawn):
        drawn.append(heatmap(kinds["single_layer"], "draft exit", "Nd"))
    drawn += [heatmap(points, x, y) for x, y in axes]
    drawn += [pareto(loads, limit_ms, recommended), speedup(loads)]
    yield from (picture for picture in drawn if picture is not None)
