"""Published against simulated in the terms of a validation: errors, ranking, and which choice fits where a paper is
silent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from hispec_sim.published.bench import HOSTS
from hispec_sim.published.check import Findings
from hispec_sim.published.results import role_of
from hispec_sim.study.fidelity import fidelity, kendall_tau

LEAST_RANKED = 3
ERRORS = ("median", "p95", "bias", "in_tolerance")
_COMMA = re.compile(r", (?![^(]*\))")  # none within parentheses
OPEN_POINTS = (
    ("meaning of t_generate", ("table2",), ("per token", "per six")),
    ("host overhead", ("table2",), ("graphed", "target eager", "eager")),
    ("host overhead", ("table1", "fig5b", "fig6"), HOSTS),
    ("host overhead", ("pipespec",), ("graphed", HOSTS[0])),
    ("bonus rule", ("table1", "fig5b", "fig6"), ("always", "on_mismatch")),
)
"""What a paper leaves open, in which groups, and the choices, which are parts of the readings' names."""


def with_errors(checks: pd.DataFrame) -> pd.DataFrame:
    """The checks that have a relative error, with the columns that `fidelity` wants of a figure `ratio`; the interval
    is the tolerance around the published number. `quantity` is what a check is a number of; means over others are left
    out."""
    kept = checks[~checks["absolute"]].copy()
    reach = kept["tolerance"] * kept["published"]
    kept["ratio_real"], kept["ratio_error"] = kept["published"], kept["error"]
    kept["ratio_sim_low"], kept["ratio_sim_high"] = kept["simulated"] - reach, kept["simulated"] + reach
    kept["quantity"] = kept["name"].str.split(_COMMA, n=1).str[0]
    return kept[~kept["name"].str.endswith(", mean")]


def quantity_table(findings: Sequence[Findings], checks: pd.DataFrame) -> pd.DataFrame:
    """A row per quantity of every group, in the stated and the best-fitting reading: errors, the share within the
    tolerance, and Kendall's tau of the ranking where there are three numbers or more."""
    titles = {each.group.key: each.group.title for each in findings}
    shown = with_errors(checks[checks["role"] != ""])
    rows = []
    for (group, role, reading, quantity), each in shown.groupby(["group", "role", "reading", "quantity"], sort=False):
        tau = (
            kendall_tau(each["published"].tolist(), each["simulated"].tolist()) if len(each) >= LEAST_RANKED else np.nan
        )
        rows.append(
            {"group": titles[str(group)], "role": role, "reading": reading, "quantity": quantity}
            | {"numbers": len(each), **_errors(each), "kendall_tau": tau}
        )
    return pd.DataFrame(rows, columns=["group", "role", "reading", "quantity", "numbers", *ERRORS, "kendall_tau"])


def overall_table(checks: pd.DataFrame) -> pd.DataFrame:
    """All numbers of the stated readings, all of the best-fitting ones."""
    shown = with_errors(checks)
    roles = {role: shown[shown["role"].str.contains(role)] for role in ("stated", "best")}
    return pd.DataFrame([{"role": role, "numbers": len(each), **_errors(each)} for role, each in roles.items()])


def reading_table(findings: Sequence[Findings], checks: pd.DataFrame) -> pd.DataFrame:
    """A row per reading of every group, best-fitting first."""
    errors = {key: _errors(each) for key, each in with_errors(checks).groupby(["group", "reading"])}
    nothing = dict.fromkeys(ERRORS, np.nan)
    return pd.DataFrame(
        [
            {
                "group": each.group.title,
                "reading": reading,
                "role": role_of(each, reading),
                "hits": each.hits(reading),
                "of": len(each.printed(reading)),
                "misfit": each.misfit(reading),
                **errors.get((each.group.key, reading), nothing),
            }
            for each in findings
            for reading in each.by_fit
        ]
    )


def open_table(findings: Sequence[Findings], readings: pd.DataFrame) -> pd.DataFrame:
    """A row per choice of every open point: the best-fitting reading that makes it. `best` marks the choice that fits
    best, `stated` the one that was made beforehand."""
    return pd.DataFrame([row for each in findings for row in _choices(each, readings)])


def _choices(findings: Findings, readings: pd.DataFrame) -> Iterator[dict[str, object]]:
    for point, groups, choices in OPEN_POINTS:
        if findings.group.key not in groups:
            continue
        for choice in choices:
            fitting = [reading for reading in findings.by_fit if choice in reading.split(", ")]
            if not fitting:
                continue
            row = readings[(readings["group"] == findings.group.title) & (readings["reading"] == fitting[0])].iloc[0]
            yield {
                "open point": point,
                "group": findings.group.title,
                "choice": choice,
                "stated": choice in findings.group.stated.split(", "),
                "best": choice in findings.best.split(", "),
                **{name: row[name] for name in ("reading", "hits", "of", "misfit", "median", "p95", "bias")},
            }


def _errors(rows: pd.DataFrame) -> dict[str, float]:
    found = fidelity(rows, "ratio")
    return dict(zip(ERRORS, (found.median, found.p95, found.bias, found.coverage), strict=True))
