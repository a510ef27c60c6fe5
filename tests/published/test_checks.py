"""Every group of checks runs and gives finite rows; what hit stays hit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hispec_sim.errors import InputError
from hispec_sim.published.bench import Bench
from hispec_sim.published.check import Check, Group, pick_groups, run_group
from hispec_sim.published.checks import all_groups
from hispec_sim.published.results import check_table, summary
from hispec_sim.study.fidelity import kendall_tau

PROFILES = Path(__file__).parents[2] / "profiles" / "h100_sxm"
GROUPS = {group.key: group for group in all_groups()}
LEAST_HITS = {"table2": 0, "table1": 9, "fig5b": 3, "fig6": 4, "layerskip": 7, "leviathan": 1, "pipespec": 0}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(PROFILES)


@pytest.mark.parametrize("key", GROUPS)
def test_the_stated_reading_is_finite_and_keeps_its_hits(key: str, bench: Bench) -> None:
    group = GROUPS[key]
    checks = group.readings[group.stated](bench)
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert math.isfinite(check.simulated)
        assert math.isfinite(check.error)
        assert check.assumption
        assert check.explanation
        assert "arXiv" in check.source
    assert sum(check.hit for check in checks if not check.detail) >= LEAST_HITS[key]


@pytest.mark.parametrize("key", ["table1", "fig5b", "fig6", "layerskip", "pipespec"])
def test_every_reading_runs(key: str) -> None:
    quick = Bench(PROFILES, tokens=100)
    group = GROUPS[key]
    for name in list(group.readings)[:: 3 if key == "fig6" else 1]:
        assert group.readings[name](quick)


def test_table2_is_launch_bound_and_per_token(bench: Bench) -> None:
    findings = run_group(GROUPS["table2"], bench)
    best = findings.best
    assert best.startswith("per token")
    assert ", eager," in best
    assert findings.hits(best) >= 9


def test_figure_6_peaks_where_the_paper_does(bench: Bench) -> None:
    group = GROUPS["fig6"]
    rows = {check.name: check for check in group.readings["Nd=3, matched_per_drafted, always, eager"](bench)}
    assert rows["best exit layer"].hit
    assert rows["correlation of the two curves"].simulated > 0.97


def test_errors_are_relative_unless_absolute() -> None:
    relative = Check("a", "s", 2.0, 2.2, 0.1, "", "")
    assert relative.error == pytest.approx(0.1)
    absolute = Check("a", "s", 0.0, -0.2, 0.1, "", "", absolute=True)
    assert absolute.error == pytest.approx(-0.2)
    assert not absolute.hit
    with pytest.raises(ValueError, match="finite"):
        Check("a", "s", math.nan, 1.0, 0.1, "", "")


def test_the_best_reading_is_the_one_with_the_least_misfit(bench: Bench) -> None:
    def reading(simulated: float):  # type: ignore[no-untyped-def]
        detail = Check("d", "s", 1.0, 9.0, 0.1, "a", "e", detail=True)
        return lambda bench: (Check("c", "s", 1.0, simulated, 0.1, "a", "e"), detail)

    group = Group("k", "t", "tolerance", "axes", "far", {"far": reading(2.0), "near": reading(1.05)})
    findings = run_group(group, bench)
    assert findings.by_fit == ["near", "far"]
    assert findings.shown == ["far", "near"]
    assert findings.misfit("near") == pytest.approx(0.5)
    assert check_table([findings])["role"].tolist() == ["stated", "stated", "best", "best"]
    assert summary([findings])[0]["readings"][0] == {
        "reading": "near",
        "hits": 1,
        "of": 1,
        "mean_error_over_tolerance": pytest.approx(0.5),
    }


def test_groups_are_picked_by_key() -> None:
    assert [group.key for group in pick_groups(all_groups(), ["fig6"])] == ["fig6"]
    assert len(pick_groups(all_groups(), [])) == len(GROUPS)
    with pytest.raises(InputError, match="fig7"):
        pick_groups(all_groups(), ["fig7"])


def test_kendall_tau() -> None:
    assert kendall_tau([4, 3, 2, 1], [9, 7, 5, 1]) == 1.0
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
