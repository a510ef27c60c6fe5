"""`hispec trace`: record agreement traces, look at them, and take acceptance from elsewhere."""

from __future__ import annotations

import shlex
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from hispec_sim.acceptance import trace_statistics as statistics
from hispec_sim.acceptance.trace import AgreementTrace
from hispec_sim.acceptance.trace_file import load_trace
from hispec_sim.acceptance.vllm_metrics import notes_on, read_metrics, scenario_block
from hispec_sim.cli.output import table_console, writing
from hispec_sim.cli.trace_record import record_command
from hispec_sim.errors import InputError

trace_app = typer.Typer(help="Record and inspect which exits agree with the target.", no_args_is_help=True)
import_app = typer.Typer(help="Take acceptance from what a server counted.", no_args_is_help=True)
trace_app.add_typer(import_app, name="import")
trace_app.command("record")(record_command)

SHOWN_EXITS = 6
SINCE_PLACES = (0, 1, 2, 4, 8)
LAGS = (1, 2, 4, 8)
LONGEST = 16


@trace_app.callback()
def _trace() -> None:
    """Record and inspect which exits agree with the target."""


@import_app.callback()
def _import() -> None:
    """Take acceptance from what a server counted."""


@trace_app.command()
def show(
    file: Annotated[Path, typer.Argument(help="An agreement trace.", metavar="FILE")],
    pair: Annotated[
        list[str] | None,
        typer.Option(help="Draft and middle exit, such as 4,8 or draft@12,8; may be given again.", show_default=False),
    ] = None,
    out_dir: Annotated[Path | None, typer.Option(help="Draw trace.png here.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a figure that exists.")] = False,
) -> None:
    """Print how exits agree with the target and with one another, with standard errors over prompts.

    hispec trace show smollm2.trace --pair 10,20 --out-dir figures
    """
    trace = load_trace(file)
    wanted = [_pair(trace, text) for text in pair] if pair else _some_pairs(trace)
    figure = None if out_dir is None else out_dir / "trace.png"
    if figure is not None and figure.exists() and not force:
        raise InputError(f"{figure} exists already; nothing was drawn. Give --force to replace it.")
    if out_dir is not None and out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"--out-dir {out_dir} is a file; give a folder, or one that is to be made")
    console = table_console()
    console.print(_origin(trace))
    console.print(_exits(trace))
    if wanted:
        console.print(_pairs(trace, wanted))
    if figure is not None:
        with writing(figure):
            _draw(trace, file.name, figure)
        console.print(f"{figure}: written", soft_wrap=True)


def _origin(trace: AgreementTrace) -> Table:
    grid = Table.grid(padding=(0, 2))
    how = "greedy"
    if trace.sampling is not None:
        how = f"sampled, temperature {trace.sampling.temperature:g}, top-p {trace.sampling.top_p:g}"
    grid.add_row("target", str(trace.exits[-1]))
    grid.add_row("text", f"{trace.n_sequences} prompts, {len(trace.labels)} tokens, {how}")
    grid.add_row("off the path", f"{len(trace.off_path.at)} continuations of {trace.off_path.rows.shape[1]} tokens")
    for key in ("date", "device", "dtype", "split", "prompts", "command"):
        if key in trace.provenance:
            grid.add_row(key, str(trace.provenance[key]))
    return grid


def _exits(trace: AgreementTrace) -> Table:
    table = Table(title="Agreement with the target, ± one standard error over prompts", title_justify="left")
    for name in ("exit", "agreement", *(["accepted"] if trace.sampling is not None else [])):
        table.add_column(name, justify="right")
    table.add_column(f"after {'/'.join(map(str, SINCE_PLACES))} agreed", justify="right")
    table.add_column("mean run", justify="right")
    table.add_column(f"autocorrelation, lag {'/'.join(map(str, LAGS))}", justify="right")
    for column, exit_ in enumerate(trace.exits[:-1]):
        since = statistics.since_rejection(trace, column, max(SINCE_PLACES) + 1)
        runs = statistics.run_lengths(trace, column)
        accepted = statistics.acceptance(trace, column, trace.target)
        table.add_row(
            str(exit_),
            str(statistics.agreement(trace, column)),
            *([] if accepted is None else [str(accepted)]),
            " ".join(f"{since[place].value:.2f}" for place in SINCE_PLACES),
            f"{runs.mean():.1f}" if len(runs) else "-",
            " ".join(f"{value:.2f}" for value in statistics.autocorrelation(trace, column, LAGS)),
        )
    return table


def _pairs(trace: AgreementTrace, pairs: list[tuple[int, int]]) -> Table:
    table = Table(title="Pairs of a draft and a middle exit (first choices)", title_justify="left")
    headings = ("draft", "middle", "P(middle = draft)", "P(target = middle | same)", "P(target = middle | differ)")
    for heading in (*headings, "off the path"):
        table.add_column(heading, justify="right")
    for draft, middle in pairs:
        found = statistics.pair_table(trace, draft, middle)
        numbers = (found.same, found.target_if_same, found.target_if_differ, found.off_path)
        table.add_row(str(trace.exits[draft]), str(trace.exits[middle]), *map(str, numbers))
    return table


def _some_pairs(trace: AgreementTrace) -> list[tuple[int, int]]:
    return list(combinations(_spread(trace)[:4], 2))


def _spread(trace: AgreementTrace) -> list[int]:
    """A few columns below the target, evenly spread."""
    return (
        sorted({int(c) for c in np.linspace(0, trace.target - 1, min(SHOWN_EXITS, trace.target))})
        if trace.target
        else []
    )


def _pair(trace: AgreementTrace, text: str) -> tuple[int, int]:
    names = {str(exit_): column for column, exit_ in enumerate(trace.exits[:-1])}
    target = trace.exits[-1].network
    found = [names.get(word.strip() if "@" in word else f"{target}@{word.strip()}") for word in text.split(",")]
    if len(found) != 2 or found[0] is None or found[1] is None or found[0] >= found[1]:
        raise InputError(
            f"--pair {text}: give two recorded exits, lower first, such as 4,8; recorded: {', '.join(names)}"
        )
    return found[0], found[1]


def _draw(trace: AgreementTrace, name: str, path: Path) -> None:
    from hispec_sim.report.trace_figures import ExitCurves, draw_trace

    shares = [statistics.agreement(trace, column) for column in range(trace.target)]
    curves = []
    for column in _spread(trace):
        since = statistics.since_rejection(trace, column, LONGEST)
        runs = statistics.run_lengths(trace, column)
        at_least = [float((runs >= length).mean()) if len(runs) else float("nan") for length in range(LONGEST)]
        lags = statistics.autocorrelation(trace, column, range(1, LONGEST))
        curves.append(
            ExitCurves(str(trace.exits[column]), [s.value for s in since], [s.error for s in since], at_least, lags)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [str(exit_) for exit_ in trace.exits[:-1]]
    draw_trace(name, names, [s.value for s in shares], [s.error for s in shares], curves, path)


@import_app.command("vllm")
def import_vllm(
    file: Annotated[Path, typer.Argument(help="What curl http://HOST:8000/metrics printed.", metavar="FILE")],
    since: Annotated[
        Path | None, typer.Option(help="An earlier dump of the same server: only what came after counts.")
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="Which model, if there are several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the YAML here instead of printing it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Turn vLLM's counters of speculative decoding into a scenario's acceptance, and say what they cannot tell.

    curl http://localhost:8000/metrics > metrics.txt; hispec trace import vllm metrics.txt
    """
    counters = read_metrics(file, model_name)
    if since is not None:
        counters = counters.since(read_metrics(since, counters.model))
    words = ["hispec", "trace", "import", "vllm", str(file)]
    words += ["--since", str(since)] if since else []
    words += ["--model-name", model_name] if model_name else []
    block = scenario_block(counters, f"vLLM counters of {counters.model} ({shlex.join(words)})", notes_on(counters))
    if out is None:
        typer.echo(block, nl=False)
        return
    if out.exists() and not force:
        raise InputError(f"{out} exists already; nothing was written. Give --force to replace it.")
    unfinished = out.with_name(out.name + ".new")
    try:
        unfinished.write_text(block, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; give another place") from None
    unfinished.replace(out)
    typer.echo(f"{out}: written")
