"""`hispec check hierarchy`: the map of when a hierarchy pays, and the real points on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from hispec_sim.cli.progress import progress
from hispec_sim.hierarchy.map import CELLS, ODDS_RATIO, general_panels, map_table
from hispec_sim.published.bench import Bench
from hispec_sim.published.boundaries import CLOSE, OTHER, SAME, boundary_table, point_table
from hispec_sim.published.executed import shipped_points
from hispec_sim.published.points import Point, published_points
from hispec_sim.report.folder import check_free, move_in
from hispec_sim.report.hierarchy_figures import draw_hierarchy

SHOWN = "exits 2 and 10"
"""Of a network that has run with these, on every machine, they stand for the others."""


def hierarchy_command(
    profiles: Annotated[Path, typer.Option(help="Folder of h100_sxm and the processors' profiles.")] = Path("profiles"),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results/hierarchy"),
    force: Annotated[bool, typer.Option("--force", help="Replace results that are already there.")] = False,
    odds_ratio: Annotated[
        float,
        typer.Option(
            help="Odds that the target accepts what the middle exit confirmed, over those of what it replaced."
        ),
    ] = ODDS_RATIO,
    cells: Annotated[int, typer.Option(min=8, max=256, help="Cells of a panel along each side.")] = CELLS,
) -> None:
    """When does a hierarchy pay? Autoregressive, single-layer and HiSpec decoding, tuned alike, over how often the
    draft exit and the middle exit agree with the target, for several cost ratios and verify slopes.

    Everything executed or published that is known is compared with it, boundary by boundary. Writes hierarchy_map.csv,
    hierarchy_points.csv and two figures; docs/when_hierarchy_pays.md reads them.
    """
    check_free(out, force=force)
    points = [*shipped_points(profiles), *published_points(Bench(profiles / "h100_sxm"))]
    panels = _real_panels(points)
    prices = general_panels() | {panel: point.prices for panel, point in panels.items()}
    with progress("mapping", len(prices), "panels") as tick:
        table = map_table(prices, odds_ratio, cells, tick)
    checked = point_table(points, odds_ratio)
    files = move_in(out, lambda folder: _write(folder, table, checked, {name: p.network for name, p in panels.items()}))
    console = Console(highlight=False)
    _show(console, checked)
    console.print(f"written to {out}: {', '.join(file.name for file in files)}", soft_wrap=True)


def _real_panels(points: list[Point]) -> dict[str, Point]:
    """A panel at the prices of the first point of each network that has run with two exits, or of its exits `SHOWN`."""
    chosen: dict[str, Point] = {}
    for point in points:
        if point.hispec is not None and (point.network not in chosen or point.name == f"{point.network}, {SHOWN}"):
            chosen[point.network] = point
    return {f"{network}: {point.prices}": point for network, point in chosen.items()}


def _write(folder: Path, table: pd.DataFrame, points: pd.DataFrame, panels: dict[str, str]) -> list[Path]:
    files = []
    for name, each in (("hierarchy_map", table), ("hierarchy_points", points)):
        files.append(folder / f"{name}.csv")
        each.to_csv(files[-1], index=False, float_format="%.5g")
    return files + draw_hierarchy(table, points, panels, folder)


def _show(console: Console, points: pd.DataFrame) -> None:
    table = Table(title="Boundaries and the real points that check them", title_justify="left")
    table.add_column("boundary")
    for heading in ("points", "above 1", "below 1", SAME, OTHER, CLOSE, "median error", "p95 error"):
        table.add_column(heading, justify="right")
    for row in boundary_table(points).to_dict("records"):
        counts = (str(row[name]) for name in ("points", "above", "below", SAME, OTHER, CLOSE))
        table.add_row(row["boundary"], *counts, *(f"{row[name]:.1%}" for name in ("median_error", "p95_error")))
    console.print(table)
    for row in points[points["verdict"] == OTHER].to_dict("records"):
        console.print(
            f"{OTHER}: {row['point']}: {row['boundary']} {row['real']:.2f}, map {row['as_run']:.2f}", style="yellow"
        )
