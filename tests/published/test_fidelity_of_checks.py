"""Published numbers in a validation's terms, worked out by hand."""

from __future__ import annotations

import pytest

from hispec_sim.published.check import Check, Findings, Group
from hispec_sim.published.fidelity import open_table, overall_table, quantity_table, reading_table
from hispec_sim.published.results import check_table


def check(name: str, published: float, simulated: float, *, absolute: bool = False) -> Check:
    return Check(name, "arXiv 1", published, simulated, 0.1, "assumed", "why", absolute)


ALWAYS, ON_MISMATCH = "Nd=2, always, eager", "Nd=2, on_mismatch, eager"
CHECKS = {
    ALWAYS: (
        check("speedup, (1, 2)", 1.0, 1.2), check("speedup, (1, 3)", 2.0, 2.2), check("speedup, (2, 3)", 4.0, 2.0),
        check("speedup, mean", 2.0, 9.0), check("gain of (1, 2) over 1", 2.0, 2.1),
        check("order", 1.0, 0.5, absolute=True),
    ),
    ON_MISMATCH: (
        check("speedup, (1, 2)", 1.0, 1.0), check("speedup, (1, 3)", 2.0, 2.0), check("speedup, (2, 3)", 4.0, 4.0),
        check("speedup, mean", 2.0, 2.0), check("gain of (1, 2) over 1", 2.0, 2.0),
        check("order", 1.0, 1.0, absolute=True),
    ),
}  # fmt: skip


@pytest.fixture
def findings() -> list[Findings]:
    return [
        Findings(Group("table1", "Table 1", "10 %", "bonus", ALWAYS, dict.fromkeys(CHECKS, lambda bench: ())), CHECKS)
    ]


def test_quantities(findings: list[Findings]) -> None:
    """Errors of 20, 10 and -50 %; two pairs of three ranked alike; means, and what has no relative error, left out."""
    rows = quantity_table(findings, check_table(findings)).set_index(["role", "quantity"])
    speedup = rows.loc[("stated", "speedup")]
    assert speedup["numbers"] == 3
    assert speedup["median"] == pytest.approx(0.2)
    assert speedup["bias"] == pytest.approx(-0.2 / 3)
    assert speedup["in_tolerance"] == pytest.approx(1 / 3)
    assert speedup["kendall_tau"] == pytest.approx(1 / 3)
    assert rows.loc[("best", "speedup"), "kendall_tau"] == 1
    assert rows.loc[("stated", "gain of (1, 2) over 1"), "numbers"] == 1


def test_overall_and_open_points(findings: list[Findings]) -> None:
    checks = check_table(findings)
    overall = overall_table(checks).set_index("role")
    assert overall.loc["stated", "numbers"] == 4
    assert overall.loc["stated", "median"] == pytest.approx(0.15)
    assert overall.loc["best", "p95"] == 0
    rows = open_table(findings, reading_table(findings, checks))
    bonus = rows[rows["open point"] == "bonus rule"].set_index("choice")
    assert bonus.loc["always", "stated"]
    assert not bonus.loc["always", "best"]
    assert bonus.loc["on_mismatch", "best"]
    assert bonus.loc["on_mismatch", "misfit"] == 0
