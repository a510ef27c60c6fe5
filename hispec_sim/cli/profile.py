"""`hispec profile`: bring latency profiles in and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hispec_sim.cli.output import table_console, writing
from hispec_sim.cli.profile_check import check_command
from hispec_sim.cli.profile_compare import compare_command
from hispec_sim.cli.profile_import import import_app
from hispec_sim.cli.profile_kernels import kernels_command
from hispec_sim.cli.profile_panels import panels_of
from hispec_sim.cli.profile_run import run_command
from hispec_sim.errors import InputError
from hispec_sim.latency import LatencyProfile, leave_one_out, read_profile
from hispec_sim.latency.ops import is_grid_op

profile_app = typer.Typer(help="Make and inspect latency profiles.", no_args_is_help=True)
profile_app.add_typer(import_app, name="import")
profile_app.command("run")(run_command)
profile_app.command("check")(check_command)
profile_app.command("compare")(compare_command)
profile_app.command("kernels")(kernels_command)


@profile_app.callback()
def _profile() -> None:
    """Make and inspect latency profiles."""


@profile_app.command()
def show(
    profiles: Annotated[list[Path], typer.Argument(help="Latency profiles (CSV).", metavar="PROFILE...")],
    out: Annotated[Path | None, typer.Option(help="Draw them here (PNG, PDF or SVG).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Print where a profile comes from, its ranges, its interpolation error and its share of the roofline."""
    loaded = [read_profile(path) for path in profiles]
    targets = _figure_paths(out, loaded, force)
    console = table_console()
    for profile in loaded:
        _print_provenance(console, profile)
        _print_ops(console, profile)
        _print_shares(console, profile)
    for profile, target in zip(loaded, targets, strict=False):
        with writing(target):
            _draw(profile, target)
        console.print(f"{target}: written", soft_wrap=True)


def _figure_paths(out: Path | None, profiles: list[LatencyProfile], force: bool) -> list[Path]:
    """One figure a profile; with several, device and network are put into the name."""
    if out is None:
        return []
    if out.suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"--out must end in .png, .pdf or .svg, got {out}")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no directory {out.parent}; make it first")
    if len(profiles) == 1:
        paths = [out]
    else:
        paths = [out.with_name(f"{out.stem}-{p.device}-{p.network.name}{out.suffix}") for p in profiles]
    taken = [path for path in paths if path.exists()]
    if taken and not force:
        raise InputError(f"{taken[0]} exists already; nothing was written. Give --force to replace it.")
    return paths


def _print_provenance(console: Console, profile: LatencyProfile) -> None:
    provenance = profile.provenance
    measured = sum(row.origin == "measured" for row in profile.rows)
    software = ", ".join(f"{key} {value}" for key, value in provenance.software.items())
    facts = {
        "dtype": provenance.dtype,
        "software": software,
        "date": provenance.date,
        "method": provenance.method,
        "rows": f"{len(profile.rows)}: {measured} measured, {len(profile.rows) - measured} derived",
        "made by": provenance.command,
    }
    facts |= provenance.machine
    spread = profile.spread()
    if spread is not None:
        facts["spread"] = f"p10 {spread.p10:.3f}, p90 {spread.p90:.3f} of the median"
    if spread is not None and spread.mean is not None:
        facts["spread"] += f", mean {spread.mean:.3f}"
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(name, value)
    console.print(f"[bold]{profile.name}[/bold]", grid)


def _print_ops(console: Console, profile: LatencyProfile) -> None:
    table = Table(title="Ranges, and error of the interpolation when points are left out", title_justify="left")
    for column in ("op", "tensor parallel", "batch", "query tokens", "context", "median", "p95", "points"):
        table.add_column(column, justify="left" if column == "op" else "right", no_wrap=column == "op")
    errors = leave_one_out(profile)
    for op in sorted({table.op for table in profile.tables}):
        found = [table for table in profile.tables if table.op == op]
        ranges = [
            f"{min(axis[0] for axis in axes):.0f}-{max(axis[-1] for axis in axes):.0f}"
            for axes in ([getattr(t, name) for t in found] for name in ("batch", "query_tokens", "context"))
        ]
        if found[0].is_token_op:
            ranges[0] = ""
        if not is_grid_op(op):
            ranges[2] = ""
        error = errors.get(op)
        shown = ["", "", ""] if error is None else [f"{error.median:.1%}", f"{error.p95:.1%}", str(error.n)]
        table.add_row(op, ", ".join(str(t.tensor_parallel) for t in found), *ranges, *shown)
    console.print(table)


def _print_shares(console: Console, profile: LatencyProfile) -> None:
    from hispec_sim.latency.roofline import roofline_shares

    shares = roofline_shares(profile)
    if not shares:
        console.print("No roofline: the peaks of this device and dtype are not known.\n")
        return
    table = Table(title="Whole forward, one token a sequence, context 1024", title_justify="left")
    for column in ("tensor parallel", "batch", "profile ms", "roofline ms", "share of roofline"):
        table.add_column(column, justify="right")
    for share in shares:
        ratio = share.roofline_ms / share.profile_ms
        numbers = (f"{share.profile_ms:.3f}", f"{share.roofline_ms:.3f}", f"{ratio:.0%}")
        table.add_row(str(share.tensor_parallel), str(share.batch), *numbers)
    console.print(table, "")


def _draw(profile: LatencyProfile, path: Path) -> None:
    from hispec_sim.report.profile_figures import draw_profile

    title = f"{profile.name}, {profile.provenance.dtype}, {profile.provenance.date}"
    draw_profile(title, panels_of([profile], [""]), path)
