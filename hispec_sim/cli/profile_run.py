"""`hispec profile run`, `check` and `compare`: latency of a real model on this machine."""

from __future__ import annotations

import datetime
import math
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from hispec_sim.cli.durations import seconds_of
from hispec_sim.errors import InputError
from hispec_sim.latency import read_profile, write_profile

if TYPE_CHECKING:
    from hispec_sim.models.loading import LoadedModel
    from hispec_sim.profiler.measure import Stand

INTERRUPTED = 130
GOAL_MEDIAN, GOAL_P95 = 0.03, 0.08
"""A profile is good when half of its predictions are this close to what is measured, and 95 % this close."""
PROMPT_TOKENS, LEAST_NEW_TOKENS = 64, 16

Model = Annotated[str, typer.Option(help="A folder with safetensors, a .gguf file, reference or smollm2.")]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads.")]
Dtype = Annotated[str, typer.Option(help="fp32, bf16 or fp16.")]
DeviceName = Annotated[str, typer.Option(help="cpu or cuda.")]
Heads = Annotated[
    str | None, typer.Option(help="Folder of trained exit heads, or none.", show_default="the model's own, if any")
]


def run_command(
    model: Model,
    out: Annotated[Path, typer.Option(help="The profile to write (CSV).", show_default=False)],
    device: DeviceName = "cpu",
    threads: Threads = 1,
    dtype: Dtype = "fp32",
    exit_heads: Heads = None,
    batch: Annotated[str, typer.Option(help="Sequences side by side.")] = "1,2,4",
    query_tokens: Annotated[str, typer.Option(help="New tokens of each sequence.")] = "1,2,3,4,5,6,8,12,16,24,32",
    contexts: Annotated[str, typer.Option(help="Tokens that the newest one attends to.")] = "64,160,320",
    repeats: Annotated[
        str | None,
        typer.Option(
            help="Short spans to time behind themselves, as drafting runs them.", show_default="2 and a tenth"
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="Time in all, such as 5m.")] = "5m",
    allow_noise: Annotated[
        bool, typer.Option("--allow-noise", help="Measure on a noisy machine too; the profile says so.")
    ] = False,
    date: Annotated[str | None, typer.Option(help="Date to record (YYYY-MM-DD).", show_default="today")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a profile that exists.")] = False,
) -> None:
    """Measure what forwards of a model take on this machine.

    Layers, LM head, exit heads and what the decode loop takes besides are timed in the order of decoding. Ctrl-C
    keeps what is measured in OUT.samples.json, and the same command goes on from there.

    hispec profile run --model reference --threads 1 --out reference.csv --budget 5m
    """
    from hispec_sim.models.distil.interruptions import keeping_on
    from hispec_sim.profiler.passes import Grid
    from hispec_sim.profiler.profiling import profile_network

    if out.exists() and not force:
        raise InputError(f"{out} exists already; nothing was measured. Give --force to replace it, or another --out.")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no directory {out.parent}; make it first")
    grid = Grid(*(_numbers(o, t) for o, t in (("--batch", batch), ("--query-tokens", query_tokens),
                                               ("--contexts", contexts))))  # fmt: skip
    budget_s = seconds_of("--budget", budget)
    loaded = _load(model, device, threads, dtype, exit_heads)
    n_layers = loaded.network.config.shape.n_layers
    drafts = {min(2, n_layers - 1), math.ceil(n_layers / 10)}
    spans = tuple(sorted(drafts)) if repeats is None else _numbers("--repeats", repeats)
    day = date or datetime.date.today().isoformat()
    options = {"model": model, "device": device, "threads": threads, "dtype": dtype, "exit-heads": exit_heads,
               "batch": batch, "query-tokens": query_tokens, "contexts": contexts, "repeats": repeats,
               "budget": budget, "out": out}  # fmt: skip
    words = [w for key, value in options.items() if value is not None for w in (f"--{key}", str(value))]
    console = Console()
    samples = out.with_name(out.name + ".samples.json")
    with keeping_on() as keep_on, _shown(console) as show:
        profile = profile_network(
            loaded.network,
            grid,
            repeats=spans,
            budget_s=budget_s,
            # One thread's own processor time leaves out when another program had the core.
            clock_s=time.thread_time if device == "cpu" and threads == 1 else time.perf_counter,
            samples_path=samples,
            source=loaded.name,
            command=shlex.join(["hispec", "profile", "run", *words, *(["--allow-noise"] if allow_noise else [])]),
            date=day,
            allow_noise=allow_noise,
            keep_on=keep_on,
            show=show,
        )
        stopped = not keep_on()
    if profile is None or stopped:
        cure = "run the same command again to go on" if stopped else "give a longer --budget: the same command goes on"
        console.print(f"not every point is measured; what is stands in {samples}; {cure}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED if stopped else 1)
    write_profile(profile, out, overwrite=force)
    samples.unlink()
    console.print(f"{out}: {len(profile.rows)} rows, device {profile.device}", soft_wrap=True, highlight=False)


def check_command(
    profile: Annotated[Path, typer.Argument(help="The profile to check (CSV).", show_default=False)],
    model: Model,
    device: DeviceName = "cpu",
    threads: Threads = 1,
    dtype: Dtype = "fp32",
    exit_heads: Heads = None,
    points: Annotated[int, typer.Option(min=1, help="Random passes that are predicted and measured.")] = 30,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 15,
    exits: Annotated[
        str | None, typer.Option(help="Draft and middle exit of the cascade that is decoded.", show_default="see below")
    ] = None,
    other_device: Annotated[
        bool, typer.Option("--other-device", help="The profile is of another device, and that is meant.")
    ] = False,
) -> None:
    """Predict forwards and whole decoding that a profile was not fitted on, and measure them.

    Passes cut at random layers, at random points; one level, and three levels with --exits (without: a twentieth and
    a quarter of the layers), each decoding four random prompts.
    """
    from hispec_sim.cascade import Bonus, Cascade, Level
    from hispec_sim.profiler.profiling import check_device
    from hispec_sim.profiler.selfcheck import check_decoding, check_spans

    found = read_profile(profile)
    loaded = _load(model, device, threads, dtype, exit_heads)
    network = loaded.network
    if not other_device:
        check_device(found, network)
    n, name = found.network.n_layers, found.network.name
    draft, middle = _numbers("--exits", exits) if exits else (max(1, n // 20), max(2, n // 4))
    cascades = {
        "autoregressive": Cascade((Level(name, n, 0),), Bonus.ALWAYS),
        f"exits {draft} and {middle}": Cascade(
            (Level(name, draft, 0), Level(name, middle, 3), Level(name, n, 6)), Bonus.ALWAYS
        ),
    }
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, found.network.vocab_size, (4, PROMPT_TOKENS)).tolist()
    table = found.table("layer", 1)
    if table is None or table.context[-1] < PROMPT_TOKENS + LEAST_NEW_TOKENS:
        raise InputError(
            f"{profile} has no `layer` op up to a context of {PROMPT_TOKENS + LEAST_NEW_TOKENS} at tensor parallelism "
            "1; measure one with hispec profile run"
        )
    new_tokens = min(96, int(table.context[-1]) - PROMPT_TOKENS)
    checks = check_spans(found, network, points=points, repeats=repeats)
    decoded = check_decoding(found, network, cascades, prompts, new_tokens=new_tokens, repeats=3)
    shown = Table(title=f"{profile}: predicted and measured", title_justify="left")
    for column in ("what", "predicted ms", "measured ms", "error"):
        shown.add_column(column, justify="left" if column == "what" else "right")
    for each in (*checks, *decoded):
        shown.add_row(each.what, f"{each.predicted_ms:.3f}", f"{each.measured_ms:.3f}", f"{each.error:+.1%}")
    console = Console()
    console.print(shown)
    for what, some in (("forwards", checks), ("decoding", decoded)):
        errors = np.abs([each.error for each in some])
        middle_error, tail = float(np.median(errors)), float(np.quantile(errors, 0.95))
        verdict = "within" if middle_error <= GOAL_MEDIAN and tail <= GOAL_P95 else "NOT within"
        console.print(
            f"{what}: error median {middle_error:.1%}, 95th percentile {tail:.1%}; {verdict} the goal of "
            f"{GOAL_MEDIAN:.0%} and {GOAL_P95:.0%}",
            soft_wrap=True,
            highlight=False,
        )


def compare_command(
    one: Annotated[Path, typer.Argument(help="A profile (CSV).", show_default=False)],
    other: Annotated[Path, typer.Argument(help="Another of the same network.", show_default=False)],
) -> None:
    """Put two profiles of one network side by side: time of every op, at the points that both have."""
    profiles = [read_profile(path) for path in (one, other)]
    if profiles[0].network.n_layers != profiles[1].network.n_layers:
        raise InputError(
            f"{one} is of {profiles[0].network.name} and {other} of {profiles[1].network.name}; compare profiles of "
            "one network"
        )
    rows = [{row.point: row.ms for row in profile.rows} for profile in profiles]
    table = Table(title=f"{profiles[1].name} ({other}) over {profiles[0].name} ({one})", title_justify="left")
    for column in ("op", "tensor parallel", "points", "lowest", "median", "highest"):
        table.add_column(column, justify="left" if column == "op" else "right")
    shared = sorted(set(rows[0]) & set(rows[1]))
    for op, degree in dict.fromkeys((point[0], point[1]) for point in shared):
        ratios = [rows[1][point] / rows[0][point] for point in shared if point[:2] == (op, degree)]
        low, middle, high = min(ratios), float(np.median(ratios)), max(ratios)
        table.add_row(op, str(degree), str(len(ratios)), f"{low:.2f}x", f"{middle:.2f}x", f"{high:.2f}x")
    if not shared:
        raise InputError(f"{one} and {other} have no point in common; measure both on the same grid")
    Console().print(table)


def _load(model: str, device: str, threads: int, dtype: str, exit_heads: str | None) -> LoadedModel:
    from hispec_sim.models.distil.run import use_threads
    from hispec_sim.models.loading import load_model
    from hispec_sim.models.packed import pack_for_cpu

    use_threads(threads)
    loaded = load_model(model, dtype=dtype, device=device, exit_heads=exit_heads)
    if device == "cpu":
        pack_for_cpu(loaded.network)
    return loaded


def _numbers(option: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text.replace(" ", "")):
        raise InputError(f"{option} must be whole numbers such as 1,2,4, got {text!r}")
    return tuple(int(each) for each in text.replace(" ", "").split(","))


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[Stand], None]]:
    """A bar on a terminal, a line a round elsewhere."""
    bar = Progress(TextColumn("measuring"), BarColumn(), TextColumn("{task.description}"), console=console,
                   transient=True, disable=not console.is_terminal)  # fmt: skip
    task = bar.add_task("", total=1)
    said: set[int] = set()

    def show(stand: Stand) -> None:
        text = (f"round {stand.round}, {stand.done}/{stand.total} passes, at most {stand.left_s:.0f} s left, "
                f"noise {stand.noise:.2f}")  # fmt: skip
        bar.update(task, completed=stand.done, total=stand.total, description=text)
        if not console.is_terminal and stand.round not in said and stand.done == stand.total:
            said.add(stand.round)
            console.print(text, soft_wrap=True, highlight=False)

    with bar:
        yield show
