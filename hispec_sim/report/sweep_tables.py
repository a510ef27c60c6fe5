"""The leading points of a sweep as the terminal shows them, from the plain table of its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table

LEADING = 10


def leading_view(results: pd.DataFrame, axes: Sequence[str]) -> RenderableType:
    """The fastest points, and the fastest of each policy; `axes` are the columns of the axes."""
    ranked = results.sort_values(["tokens_per_s", "point"], ascending=[False, True])
    best = ranked.drop_duplicates("policy")
    return Group(
        _table(f"the {min(LEADING, len(ranked))} fastest of {len(ranked):,} points", ranked.head(LEADING), axes),
        _table("the fastest of each policy", best, axes),
    )


def values_of(row: pd.Series[Any], axes: Sequence[str]) -> str:
    """`name=value` for each axis that the row's policy uses."""
    return ", ".join(f"{name}={_short(row[name])}" for name in axes if not pd.isna(row[name]))


def _table(title: str, rows: pd.DataFrame, axes: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = "tokens/s and ms/token: median and 95 % interval over repetitions"
    for heading in ("policy", "at"):
        table.add_column(heading)
    for heading in ("tokens/s", "ms/token", "tokens per\ntarget pass"):
        table.add_column(heading, justify="right")
    table.add_column("engine")
    for _, row in rows.iterrows():
        table.add_row(
            row["policy"],
            values_of(row, axes),
            _interval(row, "tokens_per_s", ".1f"),
            _interval(row, "tpot_ms", ".2f"),
            f"{row['tokens_per_target_pass']:.2f}",
            row["engine"],
        )
    return table


def _interval(row: pd.Series[Any], name: str, form: str) -> str:
    return f"{row[name]:{form}} [{row[f'{name}_low']:{form}}, {row[f'{name}_high']:{form}}]"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
