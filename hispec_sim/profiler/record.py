"""A whole recording: batches of prompts, each a small trace on disk, joined at the end; Ctrl-C keeps what is there."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hispec_sim
from hispec_sim.acceptance.joined import join_traces
from hispec_sim.acceptance.trace import AgreementTrace, Prompt
from hispec_sim.acceptance.trace_file import load_trace, save_trace
from hispec_sim.errors import InputError
from hispec_sim.models.llama import Llama, dtype_of
from hispec_sim.profiler.agreement import Plan, record_batch

SETTINGS = "recording.json"
PART = ".trace"


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a recording stands: prompts done of all, tokens written in this run, their rate, and the time left."""

    done: int
    total: int
    tokens: int
    tokens_per_s: float
    left_s: float


def parts_folder(out: Path) -> Path:
    """Where finished batches of a recording lie until it is whole."""
    return out.with_name(out.name + ".parts")


def start(out: Path, settings: Mapping[str, Any], *, force: bool) -> None:
    """Make the folder of a new recording. Raises InputError if the trace or an unfinished recording is there."""
    folder = parts_folder(out)
    if out.exists() and not force:
        raise InputError(f"{out} exists; give another name, or --force to replace it")
    if folder.exists():
        raise InputError(f"{folder} holds an unfinished recording; go on with it by --resume, or delete it")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; give another place") from None
    unfinished = folder / f"{SETTINGS}.new"
    unfinished.write_text(json.dumps(dict(settings), indent=1) + "\n", encoding="utf-8")
    unfinished.replace(folder / SETTINGS)


def read_settings(out: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """The settings that an unfinished recording was started with. Raises InputError if there is none, or it lacks one
    of the keys."""
    path = parts_folder(out) / SETTINGS
    if not path.is_file():
        raise InputError(f"there is no unfinished recording of {out} (no {path})")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); delete its folder and record anew") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path} is damaged (it holds no settings); delete its folder and record anew")
    missing = [key for key in keys if key not in settings]
    if missing:
        raise InputError(
            f"{path} is damaged, or of another release (it lacks {', '.join(missing)}); delete its folder and record "
            "anew"
        )
    return settings


def record(
    out: Path,
    networks: Mapping[str, Llama],
    plan: Plan,
    prompts: Sequence[Sequence[int]],
    about: Sequence[Prompt],
    provenance: Mapping[str, Any],
    *,
    batch: int,
    stop_ids: Collection[int] = (),
    show: Callable[[Stand], None] = lambda stand: None,
) -> AgreementTrace:
    """Record all prompts that are not recorded yet, write the trace to `out` and return it.

    Ctrl-C (KeyboardInterrupt) leaves the finished batches beside `out`; the same call goes on to the same file.
    Raises InputError when a prompt does not fit, or if a part on disk is damaged or of other prompts.
    """
    check_prompts(networks, plan, prompts, about)
    folder = parts_folder(out)
    recorded = _recorded(folder, about, batch)
    traces: list[AgreementTrace] = []
    began, tokens = time.monotonic(), 0
    finished: list[int] = []
    for number, first in enumerate(range(0, len(prompts), batch)):
        part, chosen = folder / f"{number:05d}{PART}", slice(first, first + batch)
        if number in recorded:
            traces.append(recorded[number])
            continue

        def committed(n: int, first: int = first) -> None:
            nonlocal tokens
            tokens += n
            seconds = max(time.monotonic() - began, 1e-9)
            left = len(prompts) - first
            left_s = seconds / sum(finished) * left if finished else float("nan")
            show(Stand(first, len(prompts), tokens, tokens / seconds, left_s))

        trace = record_batch(networks, plan, prompts[chosen], about[chosen], first, stop_ids, committed)
        save_trace(trace, part)
        traces.append(trace)
        finished.append(len(prompts[chosen]))
    whole = join_traces(traces, provenance)
    save_trace(whole, out, overwrite=True)  # whether it may be replaced was asked when the recording began
    shutil.rmtree(folder, ignore_errors=True)
    return whole


def _recorded(folder: Path, about: Sequence[Prompt], batch: int) -> dict[int, AgreementTrace]:
    """The finished batches by number. Raises InputError if one is damaged, or was recorded on prompts other than those
    asked for: a trace would be of both."""
    found = {int(path.stem): load_trace(path) for path in sorted(folder.glob(f"*{PART}")) if path.stem.isdecimal()}
    for number, trace in found.items():
        first = number * batch
        if trace.prompts != tuple(about[first : first + batch]):
            raise InputError(
                f"{folder} was begun on other prompts than those asked for now (from prompt {first + 1} on): delete "
                "the folder, or record anew into another --out"
            )
    return found


def check_prompts(
    networks: Mapping[str, Llama], plan: Plan, prompts: Sequence[Sequence[int]], about: Sequence[Prompt]
) -> None:
    """Raises InputError if a prompt is empty or does not fit the networks' positions."""
    room = min(networks[exit_.network].config.max_positions for exit_ in plan.exits)
    if not prompts:
        raise InputError("there are no prompts to record on")
    for prompt, each in zip(prompts, about, strict=True):
        if not prompt:
            raise InputError(f"prompt {each.name} has no tokens")
        if len(prompt) + plan.max_new_tokens > room:
            raise InputError(
                f"prompt {each.name} has {len(prompt)} tokens; with {plan.max_new_tokens} new ones that is more than "
                f"the {room} positions of the networks: give a smaller --max-new-tokens, or leave such prompts out "
                "with --skip-long"
            )


def fitting(networks: Mapping[str, Llama], plan: Plan, prompts: Sequence[Sequence[int]]) -> list[int]:
    """Which prompts fit the networks' positions with the new tokens."""
    room = min(networks[exit_.network].config.max_positions for exit_ in plan.exits)
    return [number for number, prompt in enumerate(prompts) if len(prompt) + plan.max_new_tokens <= room]


def provenance_of(plan: Plan, networks: Mapping[str, Llama]) -> dict[str, Any]:
    """Facts of a recording besides its settings: all that does not change when it is resumed on the same machine."""
    network = networks[plan.exits[-1].network]
    return {
        "middles": [str(exit_) for exit_ in plan.middles],
        "dtype": str(dtype_of(network)).removeprefix("torch."),
        "device": device_name(network),
        "software": {
            "hispec-sim": hispec_sim.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def device_name(network: Llama) -> str:
    """The device that a network lies on, by name."""
    device = network.embedding.weight.device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def weights_hash(source: Path) -> str:
    """SHA-256 over a model's weight files, whatever they are loaded as."""
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
