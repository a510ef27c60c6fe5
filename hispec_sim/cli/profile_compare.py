"""`hispec profile compare`: two latency profiles side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from hispec_sim.cli.output import table_console, writing
from hispec_sim.cli.profile_panels import panels_of
from hispec_sim.errors import InputError
from hispec_sim.latency import LatencyProfile, NetworkCost, read_profile

FIGURES = (".png", ".pdf", ".svg")
VERIFIED = 8
LEAST_MS = 1e-4
"""What takes less than a tenth of a microsecond was too little to be told from its surroundings: no ratios of that."""


def compare_command(
    first: Annotated[Path, typer.Argument(help="A latency profile (CSV).", metavar="A")],
    second: Annotated[Path, typer.Argument(help="Another, of a network of any shape.", metavar="B")],
    tensor_parallel: Annotated[int, typer.Option(min=1, help="The tensor parallelism that is compared.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Draw both here (PNG, PDF or SVG).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Say how much longer things take in B than in A: op by op at the points of A, and whole forwards.

    hispec profile compare profiles/mine/a.csv profiles/mine/b.csv --out both.png
    """
    if out is not None:
        if out.suffix not in FIGURES:
            raise InputError(f"--out must end in {', '.join(FIGURES)}, got {out}")
        if not out.parent.is_dir():
            raise InputError(f"--out {out}: there is no directory {out.parent}; make it first")
        if out.exists() and not force:
            raise InputError(f"{out} exists already; nothing was written. Give --force to replace it.")
    a, b = read_profile(first), read_profile(second)
    console = table_console()
    tables = _op_table(a, b, tensor_parallel), _forward_table(a, b, tensor_parallel)
    for label, profile in (("A", a), ("B", b)):
        about = profile.provenance
        console.print(f"{label}: {profile.name}, {about.dtype}, {about.date}", soft_wrap=True, highlight=False)
    for table in tables:
        console.print(table)
    if out is not None:
        from hispec_sim.report.profile_figures import draw_profile

        with writing(out):
            draw_profile(f"A: {a.name}   B: {b.name}", panels_of([a, b], ["A", "B"]), out)
        console.print(f"{out}: written", soft_wrap=True)


def _op_table(a: LatencyProfile, b: LatencyProfile, tensor_parallel: int) -> Table:
    """B over A at the points that both have, op by op."""
    table = Table(title="Time of B over that of A, at common points", title_justify="left")
    for column in ("op", "points", "lowest", "median", "highest", "A ms", "B ms"):
        table.add_column(column, justify="left" if column == "op" else "right")
    ms = {row.point: row.ms for row in b.rows if row.ms > LEAST_MS}
    for op in sorted({t.op for t in (*a.tables, *b.tables) if t.tensor_parallel == tensor_parallel}):
        mine = [row for row in a.rows if row.op == op and row.tensor_parallel == tensor_parallel]
        common = [(row.ms, ms[row.point]) for row in mine if row.ms > LEAST_MS and row.point in ms]
        if not common:
            has = [profile.table(op, tensor_parallel) is not None for profile in (a, b)]
            table.add_row(op, "none common" if all(has) else f"only in {'A' if has[0] else 'B'}")
            continue
        ratios = np.array([theirs / ours for ours, theirs in common])
        middle = common[int(np.argsort(ratios)[len(ratios) // 2])]
        figures = (f"{ratios.min():.2f}", f"{np.median(ratios):.2f}", f"{ratios.max():.2f}")
        table.add_row(op, str(len(common)), *figures, f"{middle[0]:.4g}", f"{middle[1]:.4g}")
    return table


def _forward_table(a: LatencyProfile, b: LatencyProfile, tensor_parallel: int) -> Table:
    """Whole forwards in the range of both."""
    table = Table(title="Whole forwards with the loop around them", title_justify="left")
    for column in ("forward", "batch", "context", "A ms", "B ms", "B / A"):
        table.add_column(column, justify="left" if column == "forward" else "right")
    costs = [NetworkCost(profile, tensor_parallel=tensor_parallel) for profile in (a, b)]
    context = min(_largest(profile, tensor_parallel, "context") for profile in (a, b)) // 2
    widest = min(_largest(profile, tensor_parallel, "query_tokens") for profile in (a, b))
    batches = sorted({1, min(_largest(profile, tensor_parallel, "batch") for profile in (a, b))})
    for name, tokens in (("decode, 1 query token", 1), (f"verify, {min(VERIFIED, widest)}", min(VERIFIED, widest))):
        for batch in batches:
            times = []
            for cost in costs:
                ms = cost.forward_ms(
                    first_layer=0,
                    last_layer=cost.profile.network.n_layers,
                    batch=batch,
                    tokens=batch * tokens,
                    logits=batch * tokens,
                    context=context,
                )
                times.append(float(ms))
            table.add_row(name, str(batch), str(context), *(f"{x:.4g}" for x in times), f"{times[1] / times[0]:.2f}")
    return table


def _largest(profile: LatencyProfile, tensor_parallel: int, axis: str) -> int:
    op = "layer" if profile.table("layer", tensor_parallel) is not None else "attention"
    table = profile.table(op, tensor_parallel)
    if table is None:
        offered = ", ".join(map(str, profile.tensor_parallels))
        raise InputError(f"latency profile {profile.name} has no tensor_parallel {tensor_parallel}; it has {offered}")
    return int(getattr(table, axis)[-1])
