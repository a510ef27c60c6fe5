"""`hispec run`: simulate a scenario, print the comparison, write the results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hispec_sim.cli.output import table_console
from hispec_sim.cli.progress import progress
from hispec_sim.report.folder import check_free, write_results
from hispec_sim.report.tables import summary_view
from hispec_sim.report.timeline import chrome_trace
from hispec_sim.scenario.load import load_scenario
from hispec_sim.study.study import Study

"""Columns of the tables where no terminal says how many there are."""


def run_command(
    scenario: Annotated[
        Path, typer.Argument(help="Scenario file, for example scenarios/70b_3b.yaml.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", show_default="results/SCENARIO")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed, instead of the scenario's.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace results that are already there.")] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the scenario; repeatable. Items of lists go by number or by their name: "
            "--set workload.concurrency=8 --set policies.hispec.levels.0.draft_length=3",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Simulate every policy of a scenario and compare them in one table.

    Writes summary.json, tables, figures and a timeline (open it at ui.perfetto.dev) into results/SCENARIO.
    """
    overrides = [*(assignments or []), *([] if seed is None else [f"seed={seed}"])]
    loaded = load_scenario(scenario, overrides)
    folder = out if out is not None else Path("results") / scenario.stem
    check_free(folder, force=force)
    study = Study(loaded)
    with progress("simulating", study.n_ticks, "runs") as tick:
        results = study.run(tick)
    levels = {policy.name: policy.levels for policy in results.summary.policies}
    timeline = chrome_trace(results.tables["steps"], levels)
    files = write_results(folder, results.summary, results.tables, timeline, force=force)
    console = table_console()
    console.print(summary_view(results.summary))
    console.print(f"written to {folder}: {', '.join(file.name for file in files)}", soft_wrap=True, highlight=False)
    if results.interrupted:
        raise typer.Exit(130)
