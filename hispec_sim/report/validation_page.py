"""One page of HTML that holds a whole validation: figures, tables and where they come from. It loads nothing."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from hispec_sim.report.validation_figures import factor_figure, scatter_figure

PARTS = {
    "latency": "latency: real outcomes, time from the profile",
    "acceptance": "acceptance: outcomes from the trace, the run's own mean times",
    "control": "control: both the run's own",
    "host": "share of real time between forwards (information)",
}
_SIDES = ("real", "simulated", "error")
FIGURE_COLUMNS = ("tokens_per_s", "tokens_per_target_pass", "forwards_per_token")


def fidelity_table(overall: Mapping[str, Any]) -> list[list[str]]:
    """A row per figure: median and 95th percentile of the absolute error, bias, coverage."""
    return [
        [
            name,
            *(_percent(stats[key]) for key in ("median", "p95")),
            _percent(stats["bias"], "+"),
            _percent(stats["coverage"]),
        ]
        for name, stats in overall["figures"].items()
    ]


def batch_table(overall: Mapping[str, Any]) -> list[list[str]]:
    """A row per batch: errors of tokens_per_s, ranking and regret."""
    return [
        [batch, str(s["configurations"]), _percent(s["median_error"]), _percent(s["p95_error"]),
         _percent(s["bias"], "+"), f"{s['kendall_tau']:.3f}", _percent(s["regret"])]
        for batch, s in overall["by_batch"].items()
    ]  # fmt: skip


def budget_table(overall: Mapping[str, Any]) -> list[list[str]]:
    """A row per part of the error."""
    return [
        [text, _percent(overall["budget"][part]["median"]), _percent(overall["budget"][part]["p95"]),
         _percent(overall["budget"][part]["bias"], "+")]
        for part, text in PARTS.items()
    ]  # fmt: skip


FIDELITY_HEAD = ("figure", "median error", "p95 error", "bias", "in the 95 % interval")
BATCH_HEAD = ("batch", "configurations", "median error", "p95 error", "bias", "Kendall tau", "regret")
BUDGET_HEAD = ("part", "median error", "p95 error", "bias")


def validation_page(rows: pd.DataFrame, overall: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """The page's text; `rows` and `overall` as `hispec validate` writes them."""
    stats = overall["figures"]["tokens_per_s"]
    sentence = (
        f"Over {overall['configurations']} configurations the simulated tokens_per_s differs from the real one by "
        f"{_percent(stats['median'])} in the median and {_percent(stats['p95'])} at the 95th percentile; the largest "
        f"part of the error is {overall['largest_term']}."
    )
    tables = [
        {"title": "Errors", "note": "simulated / real - 1, over configurations.", "columns": FIDELITY_HEAD,
         "rows": fidelity_table(overall)},
        {"title": "Ranking", "note": "Regret: how much slower the simulator's choice really is than the real best.",
         "columns": BATCH_HEAD, "rows": batch_table(overall)},
        {"title": "Error budget", "note": "Error of tokens_per_s when all but one part is real.",
         "columns": BUDGET_HEAD, "rows": budget_table(overall)},
        {"title": "Configurations",
         "note": "Real: median over repeats [least, greatest]. Simulated: median [95 % interval].",
         "columns": ("configuration", *(f"{n}, {side}" for n in FIGURE_COLUMNS for side in _SIDES)),
         "rows": [_cells(row) for row in rows.to_dict("records")]},
    ]  # fmt: skip
    figures = [
        {"alt": "real against simulated", "png": _png(scatter_figure(rows))},
        {"alt": "error of tokens_per_s by factor", "png": _png(factor_figure(rows))},
    ]
    source = resources.files("hispec_sim.report").joinpath("validation_page.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    return template.render(
        title=provenance.get("design", ""), sentence=sentence, figures=figures, tables=tables, provenance=provenance
    )


def _cells(row: Mapping[Any, Any]) -> list[str]:
    cells = [str(row["configuration"])]
    for name in FIGURE_COLUMNS:
        cells += [
            f"{row[f'{name}_{side}']:.3g} [{row[f'{name}_{side}_low']:.3g}, {row[f'{name}_{side}_high']:.3g}]"
            for side in ("real", "sim")
        ]
        cells.append(_percent(row[f"{name}_error"], "+"))
    return cells


def _percent(share: float, sign: str = "") -> str:
    return "-" if math.isnan(share) else f"{100 * share:{sign}.2f} %"


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return base64.b64encode(buffer.getvalue()).decode()
