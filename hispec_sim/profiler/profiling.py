"""`hispec profile run` from a loaded network to a latency profile."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import hispec_sim
from hispec_sim.errors import InputError
from hispec_sim.latency.profile import LatencyProfile, Provenance
from hispec_sim.models.exits import heads_of
from hispec_sim.models.llama import Llama, dtype_of
from hispec_sim.profiler.bench import NetworkBench
from hispec_sim.profiler.fit import fit_rows
from hispec_sim.profiler.measure import QUIET, Samples, Stand, measure, read_samples, write_samples
from hispec_sim.profiler.passes import Grid, cuts_of, passes
from hispec_sim.profiler.record import device_name

_METHOD = (
    "Forwards through static caches, timed one by one in the order of decoding: each pass ends at the last layer, cut "
    "into spans in two ways, in random order over {rounds} to {most} rounds; medians. A layer, what a forward takes "
    "besides its layers (forward), embedding and LM head are solved from the spans; choose is judging logits and host "
    "the rest of the decode loop between forwards. Caches are never cut, so a rejection costs nothing. Spread of a "
    "fixed product (p90 over p10) {noise:.2f}: {verdict}."
)


def profile_network(
    network: Llama,
    grid: Grid,
    *,
    repeats: Sequence[int],
    budget_s: float,
    clock_s: Callable[[], float],
    samples_path: Path,
    source: str,
    command: str,
    date: str,
    allow_noise: bool = False,
    keep_on: Callable[[], bool] = lambda: True,
    show: Callable[[Stand], None] = lambda stand: None,
) -> LatencyProfile | None:
    """Measure a network, going on from `samples_path` if it is there; None if stopped before every point had a sample.

    `repeats`: spans of so many first layers are timed behind themselves too. `source` tells what the network was
    loaded from, `clock_s` times forwards. Raises InputError when the machine is noisy, the network
    too short or the samples are another's.
    """
    shape = network.config.shape
    heads = sorted(heads_of(network))
    exits = sorted({*cuts_of(shape.n_layers), *heads, *repeats} - {shape.n_layers})
    if not all(1 <= each < shape.n_layers for each in repeats):
        raise InputError(f"spans that are timed twice have 1 to {shape.n_layers - 1} layers, got {list(repeats)}")
    facts = {
        "model": source,
        "device": device_name(network),
        "dtype": str(dtype_of(network)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "exit_heads": heads,
    }
    earlier: Samples = read_samples(samples_path, facts) if samples_path.exists() else {}
    bench = NetworkBench(network, slots=grid.batches[-1], max_tokens=grid.contexts[-1], exits=exits, clock_s=clock_s)
    samples, noise = measure(
        bench,
        passes(shape.n_layers, grid, heads, repeats),
        budget_s=budget_s,
        clock_s=time.perf_counter,
        samples=earlier,
        allow_noise=allow_noise,
        keep_on=keep_on,
        show=show,
        after_round=lambda now: write_samples(samples_path, facts, now),
    )
    write_samples(samples_path, facts, samples)
    if not all(samples.values()):
        return None
    rows = fit_rows(
        samples,
        heads=heads,
        repeats=repeats,
        choose_ms={(b, q): bench.choose_ms(b, q) for b in grid.batches for q in grid.query_tokens},
        host_ms={b: bench.host_ms(b) for b in grid.batches},
    )
    counts = [len(times) for times in samples.values()]
    verdict = "a quiet machine" if noise <= QUIET else "NOISY, medians may be off"
    provenance = Provenance(
        dtype=str(facts["dtype"]),
        software={
            "hispec-sim": hispec_sim.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "processor": str(facts["device"]),
            "threads": str(facts["threads"]),
            "exit_heads": ", ".join(map(str, heads)) or "none",
        },
        date=date,
        command=command,
        method=_METHOD.format(rounds=min(counts), most=max(counts), noise=noise, verdict=verdict),
    )
    return LatencyProfile(device_slug(network), shape, provenance, tuple(sorted(rows, key=lambda row: row.point)))


def device_slug(network: Llama) -> str:
    """The name of the network's device as a profile has it: lower case, words joined by underscores."""
    kind = network.embedding.weight.device.type
    name = re.sub(r"[^a-z0-9]+", "_", device_name(network).lower()).strip("_")
    return f"{kind}_{name}"


def check_device(profile: LatencyProfile, network: Llama) -> None:
    """Raises InputError unless a profile was measured on the device that the network lies on."""
    here = device_slug(network)
    if profile.device != here:
        raise InputError(
            f"latency profile {profile.name} was measured on another device than this one, {here}; measure here with "
            "hispec profile run, or say --other-device to use it all the same"
        )
