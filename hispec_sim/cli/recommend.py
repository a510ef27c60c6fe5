"""`hispec recommend`: what to run, against what, and how sure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hispec_sim.cli.output import table_console
from hispec_sim.cli.progress import progress
from hispec_sim.errors import InputError
from hispec_sim.report.recommendation_view import recommendation_view
from hispec_sim.report.sweep_folder import write_pictures, write_recommendation


def recommend_command(
    folder: Annotated[
        Path, typer.Argument(metavar="SWEEP", help="Folder of a sweep's results, as `hispec sweep` made it.")
    ],
    objective: Annotated[
        Literal["tokens_per_s", "tpot_ms"], typer.Option(help="What is best: most tokens per second, or least latency.")
    ] = "tokens_per_s",
    max_tpot_ms: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Choose only among points that need at most so many milliseconds per output token, and choose the "
            "concurrency too.",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help='Choose only among points that meet it, for example "concurrency == 1 and draft_exit < 8".',
            show_default=False,
        ),
    ] = None,
    min_gain: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="A more complex kind must gain at least this share to be advised.")
    ] = 0.01,
    repetitions: Annotated[
        int, typer.Option(min=2, help="Repetitions of the finalists on the event-driven engine.")
    ] = 20,
    vary: Annotated[
        bool, typer.Option(help="Vary every uncertain input to find what flips the advice: most of the time it takes.")
    ] = True,
    heatmaps: Annotated[
        list[str] | None,
        typer.Option(
            "--heatmap", metavar="X,Y", help="One more heatmap, over any two axes; repeatable.", show_default=False
        ),
    ] = None,
) -> None:
    """Answer a sweep: the best configuration, its margin, and what would have to change for the advice to flip.

    The leading points of each kind (autoregressive, single-layer, hierarchy) are simulated again with the same luck,
    then every uncertain input is varied alone. Writes recommendation.json and figures/ into the sweep's folder.
    """
    # what reads a sweep's store is an extra: without it, this command says so and all others work
    from hispec_sim.sweep.answer import recommend
    from hispec_sim.sweep.conditions import conditions_of
    from hispec_sim.sweep.contest import Question
    from hispec_sim.sweep.pictures import pictures_of
    from hispec_sim.sweep.results import read_results

    results = read_results(folder)
    conditions = conditions_of(results.sweep)
    question = Question(objective, max_tpot_ms, where, min_gain, repetitions, vary)
    pairs = [_pair(given, results.table.columns.tolist()) for given in heatmaps or []]
    with progress("recommending", 0, "steps") as tick:
        answer = recommend(results.table, results.scenario, conditions, question, results.meta, lambda what: tick())
    _, drawn = pictures_of(results, answer, pairs)
    written = write_recommendation(folder, answer)
    written += write_pictures(folder / "figures", drawn)
    console = table_console()
    console.print(recommendation_view(answer))
    console.print(
        f"written to {folder}: {written[0].name}, {written[1].name}, {len(written) - 2} figures in figures/",
        soft_wrap=True,
        highlight=False,
    )


def _pair(given: str, columns: list[str]) -> tuple[str, str]:
    x, _, y = given.partition(",")
    for name in (x, y):
        if name not in columns:
            raise InputError(f"--heatmap {given!r}: the sweep has no column {name!r}; give two of its axes as X,Y")
    return x, y
