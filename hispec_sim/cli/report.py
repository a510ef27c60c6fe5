"""`hispec report`: a run or a sweep as one HTML page that works offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hispec_sim.errors import InputError
from hispec_sim.report.summary import ParameterSummary
from hispec_sim.report.sweep_folder import read_recommendation, write_text


def report_command(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN_OR_SWEEP", help="Folder that `hispec run` or `hispec sweep` made.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write; in the folder an earlier report is replaced.", show_default="FOLDER/report.html"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file --out that exists.")] = False,
) -> None:
    """Write one self-contained HTML page: the answer first, sortable tables, figures to zoom and hover, provenance.

    A sweep must have its recommendation: run `hispec recommend` first. The page prints on A4.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; name one that `hispec run` or `hispec sweep` made")
    if out is not None and out.exists() and not force:
        raise InputError(f"{out} exists already; nothing was written. Give --force to replace it.")
    html = _run(folder) if (folder / "summary.json").exists() else _sweep(folder)
    path = write_text(out if out is not None else folder / "report.html", html)
    typer.echo(f"written to {path}: {path.stat().st_size / 1e6:.1f} MB")


def _run(folder: Path) -> str:
    from hispec_sim.report.page.render import render
    from hispec_sim.report.page.run_page import read_run, run_page

    return render(run_page(*read_run(folder)))


def _sweep(folder: Path) -> str:
    from hispec_sim.report.page.render import render
    from hispec_sim.report.page.sweep_page import sweep_page
    from hispec_sim.sweep.pictures import pictures_of, request_timeline
    from hispec_sim.sweep.results import read_results

    results = read_results(folder)
    answer = read_recommendation(folder)
    if answer is None:
        raise InputError(f"{folder} has no recommendation yet; run `hispec recommend {folder}` first")
    points, drawn = pictures_of(results, answer, [])
    spec = results.sweep.spec
    parameters = [ParameterSummary(name=name, **p.model_dump()) for name, p in results.sweep.parameters.items()]
    provenance = {**answer.sweep, "objective": answer.objective, "where": answer.where}
    return render(
        sweep_page(
            spec.name,
            answer,
            points,
            [axis.name for axis in results.sweep.axes],
            drawn,
            request_timeline(results, answer),
            parameters,
            provenance,
        )
    )
