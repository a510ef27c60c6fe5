"""`hispec profile run`: measure a latency profile of a real network on this machine."""

from __future__ import annotations

import datetime
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from hispec_sim.cli.durations import seconds_of
from hispec_sim.cli.turns import turns
from hispec_sim.errors import InputError
from hispec_sim.latency import write_profile

if TYPE_CHECKING:
    from hispec_sim.latency import LatencyProfile
    from hispec_sim.profiler.measure import Stand
    from hispec_sim.profiler.measurement import Measurement
    from hispec_sim.profiler.selfcheck import SelfCheck, Times

INTERRUPTED = 130
CONDITIONS = "conditions"
"""Key of the settings under which stands what a measurement was begun on and with."""
_SAME = (
    "model",
    "exit_heads",
    "dtype",
    "device",
    "threads",
    "clock",
    "exits",
    "batches",
    "contexts",
    "shortlists",
    "quiet",
)


def run_command(
    model: Annotated[str, typer.Option(help="A folder with safetensors, a .gguf file, reference or smollm2.")],
    out: Annotated[Path, typer.Option(help="The profile to write (CSV).")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    exits: Annotated[
        str,
        typer.Option(
            help="Exits whose trained heads are timed, such as 4,8; drafts are timed there too.",
            show_default="all with heads",
        ),
    ] = "",
    exit_heads: Annotated[
        str | None,
        typer.Option(help="Folder of trained heads, lm_heads, or none.", show_default="the model's own"),
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Batches; one of 2, which is a part of the largest, is added if there is time.")
    ] = "1,4",
    contexts: Annotated[
        str, typer.Option(help="Tokens, cached and new, of a sequence.", show_default="32,128,256,512")
    ] = "",
    shortlists: Annotated[str, typer.Option(help="Sizes of shortlists whose LM heads are timed.")] = "",
    budget: Annotated[str, typer.Option(help="Time to measure, such as 5m: it decides how fine and how sharp.")] = "5m",
    clock: Annotated[
        str, typer.Option(help="wall; or processor: one thread's own time, for a machine that others use.")
    ] = "wall",
    check: Annotated[
        bool, typer.Option("--check", help="Then check the profile against real decoding; keep the result in it.")
    ] = False,
    allow_noise: Annotated[bool, typer.Option("--allow-noise", help="Go on on a noisy machine; it is noted.")] = False,
    quiet: Annotated[
        float | None,
        typer.Option(
            help="Measure in moments when steady work takes at most so many times its best, such as 1.15: what others "
            "disturbed is measured again, beyond --budget."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order and of random tokens.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished measurement of --out.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a profile that exists.")] = False,
    turns_file: Annotated[
        Path | None,
        typer.Option("--turns", help="Measure in turns with the commands that are given the same file."),
    ] = None,
    turn: Annotated[str, typer.Option(help="How long a turn of this command lasts.")] = "5s",
) -> None:
    """Measure how long a network's forwards take here, as they occur in decoding, and write a latency profile.

    Ctrl-C keeps what is measured; --resume goes on. Run it with nothing else on the machine: a noisy one is refused.
    Where others share the machine, measure in quiet moments (--quiet 1.15), and in turns with what it is to predict
    (--turns, see hispec validate).

    hispec profile run --model smollm2 --threads 1 --budget 5m --check --out profiles/mine/smollm2.csv
    """
    from hispec_sim.execute.generate import use_threads
    from hispec_sim.models.layouts import lay_out_for_cpu
    from hispec_sim.models.loading import load_model
    from hispec_sim.profiler.latency import (
        grid_for,
        measure_network,
        moments_of,
        profile_of,
        ranges_of,
        unfinished_path,
        with_notes,
    )
    from hispec_sim.profiler.machine import conditions_throughout
    from hispec_sim.profiler.selfcheck import SelfCheck

    console = Console(stderr=True)
    settings: dict[str, Any] = {
        "model": model, "exit_heads": exit_heads, "dtype": dtype, "device": device, "threads": threads,
        "clock": clock, "exits": numbers("--exits", exits), "batches": numbers("--batch", batch),
        "contexts": numbers("--contexts", contexts), "shortlists": numbers("--shortlists", shortlists),
        "budget_s": seconds_of("--budget", budget), "allow_noise": allow_noise, "quiet": quiet, "seed": seed,
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    if not settings["batches"]:
        raise InputError("--batch needs at least one number")
    measurement = _opened(settings, unfinished_path(out), out, resume=resume, force=force)
    measurement.settings["command"] = _command(measurement.settings, budget, check, out)
    with turns(turns_file, seconds_of("--turn", turn)) as rest:
        use_threads(threads)
        loaded = load_model(model, dtype=dtype, device=device, exit_heads=exit_heads)
        lay_out_for_cpu(loaded.network)
        _check_conditions(measurement, conditions_throughout(loaded), unfinished_path(out))
        grid = grid_for(
            loaded.network,
            batches=tuple(settings["batches"]),
            contexts=tuple(settings["contexts"]),
            exits=tuple(settings["exits"]),
            shortlists=tuple(settings["shortlists"]),
        )
        moments = moments_of(loaded.network, clock, quiet)
        checking = None
        if check:
            checking = SelfCheck(loaded, ranges_of(loaded.network, grid), clock=clock, seed=seed, moments=moments)
        out.parent.mkdir(parents=True, exist_ok=True)
        with _shown(console) as show:
            try:
                measure_network(
                    loaded.network,
                    measurement,
                    grid,
                    out,
                    show=show,
                    check=checking,
                    rest=lambda: rest(moments.lost_s),
                    moments=moments,
                )
            except KeyboardInterrupt:
                console.print("stopped, all that was measured is kept: the same command with --resume goes on")
                raise typer.Exit(INTERRUPTED) from None
        profile, fitted = profile_of(measurement, loaded)
        if quiet is not None:
            profile = with_notes(profile, {"moments": f"quiet up to {quiet:g}; {moments.lost_s:.0f} s lost"})
        if checking is not None:
            profile = _checked(profile, checking, measurement.checked_ms())
    write_profile(profile, out, overwrite=force)
    unfinished_path(out).unlink(missing_ok=True)
    typer.echo(
        f"{out}: {len(profile.rows)} rows; spans lie {fitted.residual_median:.1%} (median) and "
        f"{fitted.residual_p95:.1%} (p95) off the sums of their parts"
    )


def _checked(profile: LatencyProfile, checking: SelfCheck, times: Times) -> LatencyProfile:
    from hispec_sim.cli.profile_check import print_checks
    from hispec_sim.profiler.checks import decode_error, summary_of
    from hispec_sim.profiler.latency import with_notes

    checks = checking.checks(profile, times)
    print_checks(Console(), checks)
    noted = with_notes(profile, {"check": summary_of(checks)})
    return replace(noted, provenance=replace(noted.provenance, decode_error=round(decode_error(checks), 4)))


def _opened(settings: dict[str, Any], path: Path, out: Path, *, resume: bool, force: bool) -> Measurement:
    """A new measurement, or the unfinished one if it is of the same. Noise that was allowed once stays allowed: what
    was measured in it is kept."""
    from hispec_sim.profiler.measurement import Measurement

    if out.exists() and not force:
        raise InputError(f"{out} exists already; nothing was measured. Give --force to replace it.")
    if not resume:
        if path.exists() and not force:
            raise InputError(f"{path} is an unfinished measurement: go on with --resume, or replace it with --force")
        return Measurement(settings)
    measurement = Measurement.load(path)
    began = measurement.settings
    _demand_same(path, began, settings, _SAME)
    kept = {key: began[key] for key in ("date", CONDITIONS) if key in began}
    allow_noise = settings["allow_noise"] or bool(began.get("allow_noise"))
    measurement.settings = {**settings, **kept, "allow_noise": allow_noise}
    return measurement


def _check_conditions(measurement: Measurement, here: Mapping[str, str], path: Path) -> None:
    """Note what a new measurement is begun on and with. Raises InputError if an unfinished one was begun on another
    machine, with other weights or other software: times of both make no profile."""
    began = measurement.settings.setdefault(CONDITIONS, None if measurement.scenes else dict(here))
    if not isinstance(began, dict):
        raise InputError(
            f"{path} does not tell which machine it was begun on, as an older release left it: measure anew with "
            "--force, or into another --out"
        )
    _demand_same(path, began, here, here)


def _demand_same(path: Path, began: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raises InputError unless an unfinished measurement was begun with the same."""
    for key in keys:
        if began.get(key) != now[key]:
            raise InputError(
                f"{path} was begun with {key} {began.get(key)}, not {now[key]}: go on with the same, or measure anew "
                "with --force, or into another --out"
            )


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers of at least 1, rising, from a text such as 1,4. Raises InputError that names the option."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and len(word) < 9 and int(word) > 0 for word in words):
        raise InputError(f"{option} must be whole numbers of at least 1 such as 1,4, got {text!r}")
    return sorted({int(word) for word in words})


def _command(settings: dict[str, Any], budget: str, check: bool, out: Path) -> str:
    """The command that measures the same again."""
    words = ["hispec", "profile", "run", "--model", settings["model"]]
    for key in ("device", "threads", "dtype", "exit_heads", "clock", "seed"):
        if settings[key] is not None:
            words += ["--" + key.replace("_", "-"), str(settings[key])]
    for key, option in (("exits", "--exits"), ("batches", "--batch"), ("contexts", "--contexts"),
                        ("shortlists", "--shortlists")):  # fmt: skip
        if settings[key]:
            words += [option, ",".join(map(str, settings[key]))]
    words += ["--budget", budget]
    words += ["--check"] * check + ["--allow-noise"] * settings["allow_noise"]
    words += [] if settings["quiet"] is None else ["--quiet", f"{settings['quiet']:g}"]
    return shlex.join([*words, "--out", out.as_posix(), "--force"])


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[Stand], None]]:
    """A bar on a terminal, and a line for each round elsewhere. It is drawn between episodes only, never while one is
    timed."""
    columns = (TextColumn("measuring"), BarColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal)
    task = bar.add_task("", total=1.0)
    said: set[str] = set()

    def show(stand: Stand) -> None:
        text = f"{stand.text}, {math.ceil(stand.left_s)} s of the budget left"
        if console.is_terminal:
            bar.update(task, completed=stand.share, description=text)
            bar.refresh()
            return
        title = stand.text.split(",")[0]
        if title not in said:
            said.add(title)
            console.print(f"measuring: {text}", soft_wrap=True, highlight=False)

    with bar:
        yield show
