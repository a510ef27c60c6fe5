"""`hispec profile check`: what a profile predicts, against what this machine does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hispec_sim.errors import InputError
from hispec_sim.latency import read_profile

if TYPE_CHECKING:
    from hispec_sim.profiler.checks import Check

WORST = 8


def check_command(
    profile: Annotated[Path, typer.Argument(help="A latency profile that hispec profile run made (CSV).")],
    model: Annotated[str, typer.Option(help="The model that it is of.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    exit_heads: Annotated[
        str | None,
        typer.Option(help="Folder of trained heads, lm_heads, or none.", show_default="the model's own"),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="humaneval, prose, stdlib, reference, or a JSONL file.", show_default="prose, or the model's own"
        ),
    ] = None,
    clock: Annotated[
        str | None,
        typer.Option(help="wall or processor, as for hispec profile run.", show_default="the profile's"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the points.")] = 0,
    other_device: Annotated[
        bool, typer.Option("--other-device", help="Check even a profile of another machine or model.")
    ] = False,
) -> None:
    """Compare a profile's predictions with forwards and whole decodes that it was not made of, run here.

    hispec profile check profiles/mine/smollm2.csv --model smollm2
    """
    from hispec_sim.execute.generate import use_threads
    from hispec_sim.models.layouts import lay_out_for_cpu
    from hispec_sim.models.loading import load_model
    from hispec_sim.profiler.bench import CLOCKS
    from hispec_sim.profiler.machine import check_same_machine, conditions
    from hispec_sim.profiler.selfcheck import check_profile

    loaded = read_profile(profile)
    use_threads(threads)
    opened = load_model(model, dtype=dtype, device=device, exit_heads=exit_heads)
    lay_out_for_cpu(opened.network)
    if loaded.network.n_layers != opened.network.config.shape.n_layers:
        raise InputError(
            f"{profile} is of a network of {loaded.network.n_layers} layers, {model} has "
            f"{opened.network.config.shape.n_layers}: give the model that it was measured with"
        )
    if not other_device:
        check_same_machine(loaded, conditions(opened), options=("threads", "dtype"))
    told = loaded.provenance.machine.get("clock")
    clock = clock or (told if told in CLOCKS else CLOCKS[0])
    print_checks(Console(), check_profile(loaded, opened, clock=clock, seed=seed, prompts=prompts))


def print_checks(console: Console, checks: Sequence[Check]) -> None:
    """The errors of each group, whether they meet the goals, and the worst predictions."""
    from hispec_sim.profiler.checks import GOAL_MEDIAN, GOAL_P95, summaries

    table = Table(title="Predicted against measured", title_justify="left")
    for column in ("", "number", "median error", "p95", "bias", f"goal: {GOAL_MEDIAN:.0%} and {GOAL_P95:.0%}"):
        table.add_column(column, justify="right" if column else "left")
    for found in summaries(checks):
        verdict = "met" if found.good else "MISSED"
        figures = (f"{found.median:.1%}", f"{found.p95:.1%}", f"{found.bias:+.1%}")
        table.add_row(found.group, str(found.n), *figures, verdict)
    console.print(table)
    worst = Table(title="Furthest off", title_justify="left")
    for column in ("what", "predicted ms", "measured ms", "error"):
        worst.add_column(column, justify="left" if column == "what" else "right")
    for check in sorted(checks, key=lambda check: -abs(check.error))[:WORST]:
        worst.add_row(check.name, f"{check.predicted_ms:.3f}", f"{check.measured_ms:.3f}", f"{check.error:+.1%}")
    console.print(worst)
