"""`hispec sweep`: evaluate a design space, or search it, and show what leads."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hispec_sim.cli.output import table_console
from hispec_sim.cli.progress import progress
from hispec_sim.errors import InputError
from hispec_sim.report.sweep_tables import leading_view
from hispec_sim.sweep.load import load_sweep
from hispec_sim.sweep.space import Space

if TYPE_CHECKING:
    from hispec_sim.sweep.runners.chunk import Runner


def sweep_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Sweep file, for example scenarios/sweeps/70b_draft_choice.yaml.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results; what it has is not computed again.", show_default="results/FILE"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine.", show_default="one per core")
    ] = None,
    engine: Annotated[
        Literal["auto", "simpy", "vectorised"],
        typer.Option(help="`auto` screens with the vectorised evaluator where it can and verifies on SimPy."),
    ] = "auto",
    runner: Annotated[Literal["local", "ray"], typer.Option(help="Where points are evaluated.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster, as host:port or `auto`; without it Ray starts on this machine.", show_default=False
        ),
    ] = None,
    search: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Look for the best with N evaluations instead of all points.", show_default=False
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the sweep or of its scenario; repeatable: --set repetitions=3 --set "
            "'axes.draft_exit=[4, 8]'",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Evaluate every point of a design space and show the leading ones.

    Run it again to go on where it stopped, however it stopped. Reading the results: docs/sweeps.md.
    """
    # pyarrow, optuna and ray are extras: without them, this command says so and all others work
    from hispec_sim.sweep.run import Run

    space = Space(load_sweep(file, assignments or []))
    folder = out if out is not None else Path("results") / file.stem
    console = table_console()
    name, size = space.sweep.spec.name, f"{space.size:,} combinations"
    n_points = len(space.points()) if search is None else search
    told = f"{n_points:,} points of {size}" if search is None else f"a search with {search:,} evaluations in {size}"
    console.print(f"{name}: {told}", highlight=False, soft_wrap=True)
    with _runner(space, runner, workers, address) as started:
        command, shown = shlex.join(["hispec", *sys.argv[1:]]), partial(progress, unit="points")
        run = Run(space, folder, started, engine, command, shown)
        outcome = run.all_points() if search is None else run.search(search)
    table = outcome.results.table
    if len(table):
        console.print(leading_view(table, [axis.name for axis in space.sweep.axes]))
    if outcome.disagreement is not None:
        worst = outcome.disagreement
        console.print(
            f"{worst.points} points repeated on SimPy: tokens/s differs by at most {worst.largest:.2g} of itself, at "
            f"{worst.at.point}",
            soft_wrap=True,
            highlight=False,
        )
    console.print(
        f"{folder}: {len(table):,} of {n_points:,} points, {outcome.computed:,} evaluations made now",
        soft_wrap=True,
        highlight=False,
    )
    if outcome.interrupted:
        console.print("interrupted; run the same command again to go on", highlight=False)
        raise typer.Exit(130)


def _runner(space: Space, kind: str, workers: int | None, address: str | None) -> AbstractContextManager[Runner]:
    if kind == "local":
        if address is not None:
            raise InputError("--address names a Ray cluster; give --runner ray with it")
        from hispec_sim.sweep.runners.local import local_runner

        return local_runner(space.sweep, workers or os.cpu_count() or 1)
    if workers is not None:
        raise InputError("--workers is for processes of this machine; a Ray cluster has as many as its CPUs")
    from hispec_sim.sweep.runners.cluster import cluster_runner

    return cluster_runner(space.sweep, address)
