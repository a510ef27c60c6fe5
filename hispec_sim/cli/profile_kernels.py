"""`hispec profile kernels`: where the time of a step goes, and how far from the machine's ceilings that is."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hispec_sim.errors import InputError

if TYPE_CHECKING:
    from hispec_sim.profiler.kernels import Breakdown, Ceilings

COLUMNS = ("step", "class", "calls", "ms", "gflop", "mb", "floor_ms")


def kernels_command(
    model: Annotated[str, typer.Option(help="A folder with safetensors, a .gguf file, reference or smollm2.")],
    out: Annotated[Path, typer.Option(help="Folder for kernels.csv, roofline.png and the traces.")],
    batch: Annotated[int, typer.Option(min=1, help="Sequences.")] = 1,
    verify_tokens: Annotated[int, typer.Option(min=2, help="Query tokens of the verification.")] = 8,
    context: Annotated[int, typer.Option(min=2, help="Tokens, cached and new.")] = 256,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    clock: Annotated[str, typer.Option(help="wall or processor, as for hispec profile run.")] = "wall",
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Break one decoding step and one verification down into classes of operators, on a roofline measured here.

    hispec profile kernels --model smollm2 --out kernels-smollm2
    """
    from hispec_sim.execute.generate import use_threads
    from hispec_sim.models.layouts import lay_out_for_cpu
    from hispec_sim.models.llama import dtype_of
    from hispec_sim.models.loading import load_model
    from hispec_sim.profiler.bench import clock_for
    from hispec_sim.profiler.kernels import break_down, measure_ceilings
    from hispec_sim.report.roofline_figure import Dot, draw_roofline

    steps = {"decode": 1, "verify": verify_tokens}
    files = [out / name for name in ("kernels.csv", "roofline.png", *(f"trace_{name}.json" for name in steps))]
    taken = [path for path in files if path.exists()]
    if taken and not force:
        raise InputError(f"{taken[0]} exists already; nothing was measured. Give --force to replace it.")
    use_threads(threads)
    network = lay_out_for_cpu(load_model(model, dtype=dtype, device=device).network)
    timer = clock_for(network, clock)
    ceilings = measure_ceilings(network.embedding.weight.device, dtype_of(network), timer)
    out.mkdir(parents=True, exist_ok=True)
    found = [
        break_down(
            network,
            name,
            batch=batch,
            query_tokens=tokens,
            context=context,
            clock=timer,
            trace=out / f"trace_{name}.json",
        )
        for name, tokens in steps.items()
    ]
    console = Console()
    console.print(
        f"ceilings: a copy {ceilings.bytes_per_s / 1e9:.1f} GB/s, a product {ceilings.flops_per_s / 1e9:.1f} GFLOP/s",
        highlight=False,
    )
    for each in found:
        console.print(_table(each, ceilings))
    _write(out / "kernels.csv", found, ceilings)
    dots = [
        Dot(each.name, kernel.name, kernel.flops / kernel.bytes, 1000 * kernel.flops / kernel.ms)
        for each in found
        for kernel in each.kernels
        if kernel.flops and kernel.bytes and kernel.ms
    ]
    title = f"{network.config.shape.name}, {dtype}, batch {batch}, context {context}"
    draw_roofline(title, dots, ceilings.bytes_per_s, ceilings.flops_per_s, out / "roofline.png")
    console.print(f"written to {out}: {', '.join(path.name for path in files)}", soft_wrap=True, highlight=False)


def _table(found: Breakdown, ceilings: Ceilings) -> Table:
    graph, without = (" as a CUDA graph", " and without the graph") if found.replayed else ("", "")
    title = (
        f"{found.name}: {found.step_ms:.3f} ms{graph}, {found.profiled_ms:.3f} ms with the profiler on{without} "
        "(shares are of that); "
        f"at the ceilings {found.floor_ms(ceilings):.3f} ms"
    )
    table = Table(title=title, title_justify="left")
    for column in ("class", "calls", "ms", "share", "MFLOP", "MB", "GFLOP/s", "GB/s", "of its ceiling"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for kernel in found.kernels:
        share = f"{kernel.ms / found.profiled_ms:.1%}"
        if not kernel.bytes or not kernel.ms:
            table.add_row(kernel.name, str(kernel.calls), f"{kernel.ms:.3f}", share)
            continue
        table.add_row(
            kernel.name,
            str(kernel.calls),
            f"{kernel.ms:.3f}",
            share,
            f"{kernel.flops / 1e6:.2f}",
            f"{kernel.bytes / 1e6:.2f}",
            f"{kernel.flops / kernel.ms / 1e6:.2f}",
            f"{kernel.bytes / kernel.ms / 1e6:.2f}",
            f"{ceilings.floor_ms(kernel.flops, kernel.bytes) / kernel.ms:.0%}",
        )
    table.add_row("between operators", "", f"{found.gaps_ms:.3f}", f"{found.gaps_ms / found.profiled_ms:.1%}")
    return table


def _write(path: Path, found: Sequence[Breakdown], ceilings: Ceilings) -> None:
    unfinished = path.with_name(path.name + ".new")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for each in found:
            for k in each.kernels:
                numbers = (k.ms, k.flops / 1e9, k.bytes / 1e6, ceilings.floor_ms(k.flops, k.bytes))
                writer.writerow([each.name, k.name, k.calls, *(f"{x:.6g}" for x in numbers)])
            writer.writerow([each.name, "between operators", "", f"{each.gaps_ms:.6g}", "", "", ""])
    unfinished.replace(path)
