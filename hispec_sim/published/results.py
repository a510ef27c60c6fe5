"""The findings as one plain table, and as text for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from hispec_sim.published.check import Findings


def check_table(findings: Sequence[Findings]) -> pd.DataFrame:
    """One row per check of every reading. `role` says which reading was stated, which fits best."""
    return pd.DataFrame(
        [
            {
                "group": each.group.key,
                "reading": reading,
                "role": role_of(each, reading),
                "name": check.name,
                "published": float(check.published),
                "simulated": float(check.simulated),
                "error": float(check.error),
                "tolerance": float(check.tolerance),
                "hit": bool(check.hit),
                "absolute": check.absolute,
                "detail": check.detail,
                "source": check.source,
                "assumption": check.assumption,
                "explanation": "" if check.hit else check.explanation,
            }
            for each in findings
            for reading, checks in each.checks.items()
            for check in checks
        ]
    )


def summary(findings: Sequence[Findings]) -> list[dict[str, Any]]:
    """What became of each group: its readings with hits and misfit, and all checks of the shown ones."""
    table = check_table(findings)
    columns = [column for column in table.columns if column not in ("group", "reading", "role")]
    return [
        {
            "group": each.group.key,
            "title": each.group.title,
            "tolerance": each.group.tolerance,
            "axes": each.group.axes,
            "stated": each.group.stated,
            "best": each.best,
            "readings": [
                {
                    "reading": reading,
                    "hits": each.hits(reading),
                    "of": len(each.printed(reading)),
                    "mean_error_over_tolerance": each.misfit(reading),
                }
                for reading in each.by_fit
            ],
            "checks": {
                reading: table[(table["group"] == each.group.key) & (table["reading"] == reading)][columns].to_dict(
                    orient="records"
                )
                for reading in each.shown
            },
        }
        for each in findings
    ]


def role_of(findings: Findings, reading: str) -> str:
    """`stated`, `best`, `stated best` or nothing."""
    roles = (("stated", findings.group.stated), ("best", findings.best))
    return " ".join(role for role, name in roles if name == reading)
