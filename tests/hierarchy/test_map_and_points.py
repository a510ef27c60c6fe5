"""The map's table, the verdicts, the real points and the command."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from hispec_sim.cascade import Bonus
from hispec_sim.cli.check import check_app
from hispec_sim.errors import InputError
from hispec_sim.hierarchy.map import map_table
from hispec_sim.hierarchy.prices import Ratios, as_ratios
from hispec_sim.hierarchy.tuned import Way
from hispec_sim.published.bench import Bench
from hispec_sim.published.boundaries import CLOSE, OTHER, SAME, boundary_table, point_table, verdict
from hispec_sim.published.executed import Run, executed_points, shipped_points
from hispec_sim.published.points import HISPEC_OVER_SINGLE, SINGLE_OVER_AR, published_points

PROFILES = Path(__file__).parents[2] / "profiles"


def test_map_has_the_regions_that_theory_knows() -> None:
    """With flat verification a lone exit pays just where it agrees more often than it costs (Leviathan et al.)."""
    table = map_table({"flat": Ratios(0.2, 0.4)}, 6.0, 20)
    assert len(table) == 20 * 21 / 2
    alone = table["winner"] == "autoregressive"
    assert (alone == ((table["draft"] < 0.2) & (table["middle"] < 0.4))).all()
    assert set(table["winner"]) == {"autoregressive", "single layer", "HiSpec"}
    assert ((table["winner"] == "HiSpec") == (table["gain"] > 1)).all()


def test_ratios_come_back() -> None:
    ratios = Ratios(0.1, 0.3, 0.02, 0.03)
    back = as_ratios(ratios)
    for name in ("draft", "middle", "verify_slope", "read_out"):
        assert getattr(back, name) == pytest.approx(getattr(ratios, name))


def test_verdicts() -> None:
    assert verdict(1.1, 1.05, 1.2, 1.01) == SAME
    assert verdict(1.1, 1.05, 1.2, 0.99) == OTHER
    assert verdict(0.9, 0.8, 1.05, 0.5) == CLOSE


def test_executed_points_compare_the_fastest_of_each_kind() -> None:
    def run(exits: tuple[int, ...], length: int, period: int, rate: float) -> Run:
        return Run(exits, length, period, "always", rate, rate / 1.1, rate * 1.1, 4)

    runs = [
        run((), 0, 0, 100),
        run((1,), 3, 0, 150),
        run((2,), 4, 0, 180),
        run((3,), 9, 0, 900),
        run((1, 2), 2, 6, 198),
    ]
    (point,) = executed_points("m", runs, {1: 0.5, 2: 0.8}, lambda pair: Ratios(0.1, 0.2), "here")
    assert point.single == Way(2, 4, Bonus.ALWAYS)
    assert point.hispec == Way(1, 2, Bonus.ALWAYS, 6)
    assert point.real[HISPEC_OVER_SINGLE].value == pytest.approx(1.1)
    assert point.real[SINGLE_OVER_AR].low < 1.8 < point.real[SINGLE_OVER_AR].high
    row = boundary_table(point_table([point], 6.0)).set_index("boundary").loc[SINGLE_OVER_AR]
    assert (row["points"], row["above"], row[SAME]) == (1, 1, 1)


def test_every_boundary_has_points_on_both_sides() -> None:
    """And no point whose side can be told lies across it, as the page says."""
    points = [*shipped_points(PROFILES), *published_points(Bench(PROFILES / "h100_sxm"))]
    rows = boundary_table(point_table(points, 6.0)).set_index("boundary")
    assert (rows["above"] > 0).all()
    assert (rows["below"] > 0).all()
    assert rows[OTHER].sum() == 0
    assert rows[SAME].sum() >= 60


def test_points_are_those_of_the_simulated_checks() -> None:
    """The closed form with independent levels against the simulated Table 1 of the paper checks: 1.21 on ShareGPT."""
    points = published_points(Bench(PROFILES / "h100_sxm"))
    point = next(point for point in points if point.name.startswith("HiSpec llama-2-70b, sharegpt"))
    assert point.as_run(1.0)[HISPEC_OVER_SINGLE] == pytest.approx(1.21, rel=0.02)


def test_command(tmp_path: Path) -> None:
    def run(*more: str):  # type: ignore[no-untyped-def]
        arguments = ["hierarchy", "--profiles", str(PROFILES), "--cells", "12", "--out", str(tmp_path / "map"), *more]
        return CliRunner().invoke(check_app, arguments, catch_exceptions=False, env={"COLUMNS": "160"})

    result = run()
    assert result.exit_code == 0
    for word in (SAME, CLOSE, "HiSpec over single layer"):
        assert word in result.output
    names = {"hierarchy_map.csv", "hierarchy_points.csv", "hierarchy_map.png", "hierarchy_points.png"}
    assert {path.name for path in (tmp_path / "map").iterdir()} == names
    assert pd.read_csv(tmp_path / "map" / "hierarchy_map.csv")["panel"].nunique() == 19
    with pytest.raises(InputError, match="--force"):
        run()
    assert run("--force", "--odds-ratio", "1").exit_code == 0
    with pytest.raises(InputError, match="odds_ratio"):
        run("--force", "--odds-ratio", "0.5")
    with pytest.raises(InputError, match="nowhere"):
        run("--force", "--profiles", str(tmp_path / "nowhere"))
