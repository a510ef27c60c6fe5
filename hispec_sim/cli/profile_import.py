"""`hispec profile import`: latency profiles from published measurements."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hispec_sim.errors import InputError
from hispec_sim.latency import write_profile
from hispec_sim.networks import NetworkSpec, known_networks

import_app = typer.Typer(help="Take a latency profile from published measurements.", no_args_is_help=True)


@import_app.callback()
def _import() -> None:
    """Take a latency profile from published measurements."""


@import_app.command("aiconfigurator")
def import_aiconfigurator(
    device: Annotated[str, typer.Option(help="Device, such as h100_sxm.")],
    network: Annotated[str | None, typer.Option(help="Network, such as llama-3.1-70b.")] = None,
    out: Annotated[Path | None, typer.Option(help="The CSV to write, with --network.")] = None,
    all_networks: Annotated[bool, typer.Option("--all", help="Every known network, with --out-dir.")] = False,
    out_dir: Annotated[Path | None, typer.Option(help="Where --all writes NETWORK.csv.")] = None,
    backend: Annotated[
        str, typer.Option(help="Tables of which framework: sglang, vllm, trtllm (its verification is doubtful).")
    ] = "sglang",
    date: Annotated[str | None, typer.Option(help="Date to record (YYYY-MM-DD); default: today.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write latency profiles from NVIDIA's measured kernel tables (aiconfigurator)."""
    from hispec_sim.latency.import_aiconfigurator import import_profile

    day = _date(date)
    console = Console()
    jobs = _jobs(network, out, all_networks, out_dir)
    taken = [path for _, path in jobs if path.exists()]
    if taken and not force:
        raise InputError(f"{taken[0]} exists already; nothing was written. Give --force to replace it.")
    for spec, path in jobs:
        command = shlex.join(
            [
                *("hispec", "profile", "import", "aiconfigurator", "--device", device, "--network", spec.name),
                *("--backend", backend, "--date", day, "--out", path.as_posix(), "--force"),
            ]
        )
        profile = import_profile(spec, device, backend=backend, date=day, command=command)
        write_profile(profile, path, overwrite=force)
        degrees = ", ".join(map(str, profile.tensor_parallels))
        console.print(f"{path}: {len(profile.rows)} rows, tensor parallel {degrees}", soft_wrap=True)


@import_app.command("vidur")
def import_vidur_command(
    folder: Annotated[Path, typer.Argument(help="Folder with Vidur's mlp.csv, attention.csv and all_reduce.csv.")],
    network: Annotated[str, typer.Option(help="Network, such as llama-2-70b.")],
    device: Annotated[str, typer.Option(help="Name of the device, such as a100_sxm.")],
    out: Annotated[Path, typer.Option(help="The CSV to write.")],
    all_reduce: Annotated[
        Path | None, typer.Option(help="Vidur's all_reduce.csv, if it lies elsewhere (data/profiling/network).")
    ] = None,
    date: Annotated[str | None, typer.Option(help="Date to record (YYYY-MM-DD); default: today.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a latency profile from the measurements of Vidur (github.com/microsoft/vidur, data/profiling)."""
    from hispec_sim.latency.import_vidur import import_vidur

    day, networks = _date(date), known_networks()
    if network not in networks:
        raise InputError(f"unknown network {network!r}; known networks are {', '.join(networks)}")
    words = ["hispec", "profile", "import", "vidur", folder.as_posix(), "--network", network, "--device", device]
    words += [] if all_reduce is None else ["--all-reduce", all_reduce.as_posix()]
    command = shlex.join([*words, "--date", day, "--out", out.as_posix(), "--force"])
    profile = import_vidur(networks[network], device, folder, all_reduce=all_reduce, date=day, command=command)
    write_profile(profile, out, overwrite=force)
    degrees = ", ".join(map(str, profile.tensor_parallels))
    typer.echo(f"{out}: {len(profile.rows)} rows, tensor parallel {degrees}")


def _jobs(
    network: str | None, out: Path | None, all_networks: bool, out_dir: Path | None
) -> list[tuple[NetworkSpec, Path]]:
    """Which network goes to which file."""
    networks = known_networks()
    if all_networks:
        if out_dir is None or network is not None or out is not None:
            raise InputError("--all goes with --out-dir, and without --network and --out")
        return [(spec, out_dir / f"{name}.csv") for name, spec in networks.items()]
    if network is None or out is None or out_dir is not None:
        raise InputError("give --network with --out, or --all with --out-dir")
    if network not in networks:
        raise InputError(f"unknown network {network!r}; known networks are {', '.join(networks)}")
    return [(networks[network], out)]


def _date(date: str | None) -> str:
    if date is None:
        return datetime.date.today().isoformat()
    try:
        return datetime.date.fromisoformat(date).isoformat()
    except ValueError:
        raise InputError(f"--date must be a day as YYYY-MM-DD, got {date!r}") from None
