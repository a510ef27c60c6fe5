"""The machine and the software that a measurement is made with, and whether a profile was made with the same."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch

import hispec_sim
from hispec_sim.errors import InputError
from hispec_sim.latency.profile import LatencyProfile
from hispec_sim.models.files.weights import DTYPES
from hispec_sim.models.linear import LaidOut
from hispec_sim.models.llama import Llama, dtype_of
from hispec_sim.models.loading import LoadedModel
from hispec_sim.profiler.record import device_name, weights_hash


def device_slug(network: Llama) -> str:
    """A name for the device as the head of a profile: `amd_epyc_avx2_1_thread`."""
    name = device_name(network)
    if network.embedding.weight.device.type == "cpu":
        threads = torch.get_num_threads()
        name += f" {_instructions(network)} {threads} thread{'s' if threads > 1 else ''}"
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def dtype_name(network: Llama) -> str:
    """float32, bfloat16 or float16."""
    return str(dtype_of(network)).removeprefix("torch.")


def software() -> dict[str, str]:
    """Versions of what computes."""
    return {
        "hispec-sim": hispec_sim.__version__,
        "torch": str(torch.__version__),  # a subclass of str, which YAML does not write
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def machine_of(model: LoadedModel) -> dict[str, str]:
    """What else was measured on and with."""
    network = model.network
    heads = weights_hash(model.exit_heads) if model.exit_heads is not None else "none"
    return {
        "processor": device_name(network),
        "instructions": _instructions(network),
        "threads": str(torch.get_num_threads()),
        "system": platform.platform(),
        "model": model.name,
        "weights_sha256": weights_hash(model.source),
        "exit_heads_sha256": heads,
        "packed": str(any(isinstance(m, LaidOut) for m in network.modules())).lower(),
        "commit": _commit(),
    }


def _instructions(network: Llama) -> str:
    """The widest vectors that torch computes with on a CPU. Machines of a cloud that call their processors the same
    ("AMD EPYC") differ in them, and with them in speed by half."""
    on_cpu = network.embedding.weight.device.type == "cpu"
    return torch.backends.cpu.get_cpu_capability() if on_cpu else "of the device"


def _commit() -> str:
    """The commit of the code, where it lies in a repository of its own."""
    root = Path(hispec_sim.__file__).parents[1]
    if not (root / ".git").exists():
        return "unknown"
    try:
        command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


SAME = ("processor", "instructions", "threads", "dtype", "weights_sha256", "exit_heads_sha256", "packed")
TOLD_LATER = ("instructions",)
"""Profiles that were measured before they told of this are not asked for it."""


def conditions(model: LoadedModel) -> dict[str, str]:
    """What the times of a model depend on; measured under other ones, they say nothing about it."""
    every = {**machine_of(model), "dtype": dtype_name(model.network)}
    return {key: every[key] for key in SAME}


def conditions_throughout(model: LoadedModel) -> dict[str, str]:
    """What must not change while a profile is measured, in however many sessions: its file tells one of each."""
    return {**conditions(model), **software()}


def check_same_machine(
    profile: LatencyProfile, here: Mapping[str, str], options: Collection[str] = ("threads",)
) -> None:
    """Raises InputError unless a profile was measured under these conditions: on this device, with so many threads, in
    this type and with these weights. What it predicts is otherwise no prediction of what is run here. `options`: the
    conditions that an option of the command sets."""
    there = {**profile.provenance.machine, "dtype": profile.provenance.dtype}
    for key, value in here.items():
        if there.get(key) != value and (key in there or key not in TOLD_LATER):
            was = there.get(key, "not told, as it was not measured by hispec profile run")
            raise InputError(
                f"latency profile {profile.name} is of another machine or model: {key} is {value} here and was "
                f"{was}; {_option(key, was) if key in options else ''}measure one here with hispec profile run, or say "
                "--other-device to go on all the same"
            )


def _option(key: str, was: str) -> str:
    """How an option makes a condition what it was, where that is known."""
    if key == "dtype":
        was = next((name for name, dtype in DTYPES.items() if str(dtype) == f"torch.{was}"), "")
    return f"give --{key} {was}, " if was in DTYPES or was.isdecimal() else ""
