"""Published against simulated numbers as a page like a validation's, from plain tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import pandas as pd

from hispec_sim.report.page.render import Cell, Page, PageTable, Section, number, render
from hispec_sim.report.published_figures import published_pictures
from hispec_sim.report.sweep_figures import Picture
from hispec_sim.report.validation_page import percent, text_table

ERRORS = {"median": "median error", "p95": "p95 error", "bias": "bias"}
_SHARES = {*ERRORS, "in_tolerance", "error"}
_ROLES = {"stated": "stated", "best": "best fit", "stated best": "stated, best fit", "": ""}


def published_page(tables: Mapping[str, pd.DataFrame], groups: pd.DataFrame, provenance: Mapping[str, object]) -> str:
    """The page's text. `tables` has `checks`, `overall`, `quantities`, `readings` and `open points`; `groups` a row per
    group: key, title, tolerance, axes, misses."""
    checks = tables["checks"]
    stated, best = (_in_words(tables["overall"], role) for role in ("stated", "best"))
    sentence = (
        f"Read as was stated beforehand, simulated numbers differ from the published ones by {stated}; read as fits "
        f"each table best, by {best}."
    )
    pictures = published_pictures(checks)
    sections = [
        Section(
            "Errors and ranking",
            ["Simulated / published - 1. A best-fitting reading was found by looking, which is weaker evidence."],
            [
                page_table(
                    tables["quantities"],
                    ("group", "role", "quantity", "numbers", *ERRORS, "in_tolerance", "kendall_tau"),
                )
            ],
            [pictures[""]] if "" in pictures else [],
        ),
        Section(
            "What the papers leave open",
            ["Each choice with the reading that fits best among those that make it; misfit is the mean error over the "
             "tolerance, below 1 where numbers hit on the whole."],
            [page_table(tables["open points"], tuple(tables["open points"].columns))],
        ),
        *(_group(group, checks, tables["readings"], pictures) for group in groups.to_dict("records")),
        Section("Provenance", tables=[text_table(("", ""), [[k, str(v)] for k, v in provenance.items()], "")]),
    ]  # fmt: skip
    return render(Page("Published numbers against the simulator", sentence, sections))


def page_table(rows: pd.DataFrame, columns: tuple[str, ...], caption: str = "") -> PageTable:
    """Columns of a table, shares as percentages."""
    headings = [{**ERRORS, "in_tolerance": "within tolerance", "kendall_tau": "Kendall tau"}.get(c, c) for c in columns]
    return PageTable(headings, [[_cell(c, row[c]) for c in columns] for row in rows.to_dict("records")], caption)


def _group(
    group: Mapping[Hashable, str], checks: pd.DataFrame, readings: pd.DataFrame, pictures: Mapping[str, Picture]
) -> Section:
    shown = checks[(checks["group"] == group["key"]) & (checks["role"] != "") & ~checks["detail"]]
    own = readings[readings["group"] == group["title"]]
    return Section(
        group["title"],
        [f"Tolerance: {group['tolerance']}.", f"A reading settles: {group['axes']}.", *filter(None, [group["misses"]])],
        [
            page_table(shown, ("role", "name", "published", "simulated", "error", "tolerance", "hit")),
            page_table(own, ("reading", "role", "hits", "of", "misfit", *ERRORS), "All readings, best-fitting first."),
        ],
        [pictures[group["key"]]] if group["key"] in pictures else [],
    )


def _in_words(overall: pd.DataFrame, role: str) -> str:
    errors = overall.set_index("role").to_dict("index")[role]
    return f"{percent(errors['median'])} in the median and {percent(errors['p95'])} at the 95th percentile"


def _cell(column: str, value: object) -> Cell:
    if isinstance(value, bool):
        return Cell("yes" if value else "no", float(value))
    if column == "role":
        return Cell(_ROLES[str(value)])
    if not isinstance(value, float):
        return Cell(str(value), float(value) if isinstance(value, int) else None)
    if pd.isna(value):
        return Cell("-")
    return (
        Cell(percent(value, "+" if column in ("bias", "error") else ""), value)
        if column in _SHARES
        else number(value, ".3g")
    )
