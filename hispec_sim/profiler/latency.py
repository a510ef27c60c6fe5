"""A whole measurement of one network: what is asked for, the file that an unfinished one goes on from, the profile."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.latency.profile import LatencyProfile, Provenance
from hispec_sim.models.exits import heads_of
from hispec_sim.models.llama import Llama
from hispec_sim.models.loading import LoadedModel
from hispec_sim.profiler.bench import cascades, clock_for, default_exits, open_bench, steady_reading, steady_work
from hispec_sim.profiler.fit import Fit, fit
from hispec_sim.profiler.machine import device_slug, dtype_name, machine_of, software
from hispec_sim.profiler.measure import Stand, measure
from hispec_sim.profiler.measurement import Measurement
from hispec_sim.profiler.moments import AnyMoment, Moments, QuietMoments
from hispec_sim.profiler.pace import paces, steadied
from hispec_sim.profiler.plan import COARSE_QUERY_TOKENS, CONTEXTS, Grid
from hispec_sim.profiler.quiet import Probe
from hispec_sim.profiler.selfcheck import Ranges, SelfCheck

METHOD = (
    "Real forwards in scenes of the decode loop (passes span by span, drafts in rows, decodes), interleaved at "
    "random; medians, of times divided by the machine's pace as the scenes around tell it; of rows of drafts and of "
    "gaps, means over the mean_over_median of all. layer, forward, embedding and lm_head are the least-squares parts "
    "of all spans of a shape, layers and rows of drafts drawn towards lines along the context as far as scatter "
    "explains; exit heads and shortlists are differences of forwards with and without reading out, an exit head run "
    "over the forward's own tokens; host and choose are the gaps between forwards of real decodes, those of few "
    "layers behind real rows of drafts, where the target's verifications are timed too: these are least squares over "
    "exits and contexts, and drafts have the pace that they tell of a scene. p10 and p90 are those of the forwards "
    "that tell most about a part, with the pace. Derived when a file is read: contexts shorter than any measured with "
    "as many query tokens, or between them (on lines), all sequences of a batch but one (which take what copying a "
    "part's caches adds), long prompts of batches, and prefill pieces behind a prompt's first. Rolling caches back "
    "costs nothing: they are never cut."
)


def unfinished_path(out: Path) -> Path:
    """Where a measurement is kept until its profile is written."""
    return out.with_name(out.name + ".measuring.json")


def grid_for(
    network: Llama,
    *,
    batches: tuple[int, ...],
    contexts: tuple[int, ...],
    exits: tuple[int, ...],
    shortlists: tuple[int, ...],
) -> Grid:
    """The coarse grid. Empty `contexts` are those of `plan.CONTEXTS` that the network has positions for, empty `exits`
    all with trained heads. Raises InputError for what the network does not have."""
    shape, positions = network.config.shape, network.config.max_positions
    contexts = contexts or tuple(context for context in CONTEXTS if context <= positions) or (positions,)
    if contexts[-1] > positions:
        raise InputError(f"--contexts: network {shape.name} has {positions} positions, not {contexts[-1]}")
    for exit_layer in exits:
        if exit_layer >= shape.n_layers:
            raise InputError(f"--exits: network {shape.name} has exits at layers 1 to {shape.n_layers - 1}")
    if shortlists and network.token_ranking is None:
        raise InputError(f"--shortlists: network {shape.name} comes without a ranking of its tokens")
    known = heads_of(network)
    heads = tuple(exit_layer for exit_layer in sorted(known) if not exits or exit_layer in exits)
    # Who has trained layers for some exits does not draft at others. An LM head of its own any exit may have, or not.
    needs_heads = bool(heads) and all(known[exit_layer].reads_by is None for exit_layer in heads)
    return Grid(
        n_layers=shape.n_layers,
        batches=batches,
        query_tokens=tuple(tokens for tokens in COARSE_QUERY_TOKENS if tokens < contexts[-1]),
        contexts=contexts,
        head_exits=heads,
        shortlists=shortlists,
        cascades=len(cascades(shape.n_layers, exits or default_exits(network))),
        draft_exits=tuple(sorted({*heads, *exits})) if needs_heads else (),
    )


def ranges_of(network: Llama, grid: Grid) -> Ranges:
    """What a profile of this grid is checked within."""
    exits = grid.head_exits or default_exits(network)
    return Ranges(tuple(sorted({1, grid.batches[-1]})), grid.query_tokens[-1], grid.contexts[-1], exits)


def measure_network(
    network: Llama,
    measurement: Measurement,
    coarse: Grid,
    out: Path,
    *,
    show: Callable[[Stand], None] = lambda stand: None,
    check: SelfCheck | None = None,
    rest: Callable[[], float] = lambda: 0.0,
    moments: Moments | None = None,
) -> None:
    """Measure, or go on measuring, as `measurement.settings` say; what is there is saved beside `out` all the time.
    `check` is played between episodes; `rest` is called between episodes, which are played in
    `moments` (see `measure.measure`)."""
    settings = measurement.settings
    clock = clock_for(network, settings["clock"])
    probe = Probe(clock, steady_work(network.embedding.weight.device))
    exits = tuple(settings["exits"]) or default_exits(network)
    bench = open_bench(network, measurement.grid or coarse, clock, exits, settings["seed"])
    path = unfinished_path(out)
    measure(
        measurement,
        coarse,
        bench,
        clock,
        probe,
        budget_s=settings["budget_s"],
        allow_noise=settings["allow_noise"],
        rng=np.random.default_rng([settings["seed"], len(measurement.samples)]),
        save=lambda: measurement.save(path),
        show=show,
        check=check.play if check else None,
        rest=rest,
        moments=moments,
    )


def moments_of(network: Llama, clock: str, quiet: float | None) -> Moments:
    """Those of the device that a network is on: all, or those in which steady computing and steady reading take at most
    `quiet` times their best, which is learnt for ten seconds. Raises InputError if that is not above 1."""
    if quiet is None:
        return AnyMoment()
    device = network.embedding.weight.device
    return QuietMoments(clock_for(network, clock), (steady_work(device), steady_reading(device)), quiet)


def profile_of(measurement: Measurement, model: LoadedModel) -> tuple[LatencyProfile, Fit]:
    """The profile that the samples make. Raises InputError if there are too few."""
    if not measurement.scenes:
        raise InputError("nothing has been measured yet; go on with --resume")
    fitted = fit(measurement.samples, steadied(measurement.scenes))
    network, settings = model.network, measurement.settings
    provenance = Provenance(
        dtype=dtype_name(network),
        software=software(),
        date=settings["date"],
        command=settings["command"],
        method=METHOD,
        machine={
            **machine_of(model),
            "clock": clock_for(network, settings["clock"]).name,
            **_quality(measurement, fitted),
        },
        mean_over_median=round(fitted.mean_over_median, 4),
    )
    return LatencyProfile(device_slug(network), network.config.shape, provenance, fitted.rows), fitted


def _quality(measurement: Measurement, fitted: Fit) -> dict[str, str]:
    """How the measurement went."""
    probe = measurement.probe_ms
    spread = statistics.quantiles(probe, n=10)[-1] / statistics.median(probe) if len(probe) > 1 else float("nan")
    repeats = [len(ms) for ms in measurement.samples.values()]
    low, high = np.exp(np.quantile(paces(measurement.scenes), (0.1, 0.9)))
    noise = "allowed" if measurement.settings["allow_noise"] else "not allowed"
    return {
        "measured_s": f"{measurement.spent_s:.0f}",
        "repeats": f"{min(repeats)} to {max(repeats)}, median {statistics.median(repeats):.0f}",
        "noise": f"{noise}; steady work: p90 {spread:.3f} of its median",
        "pace": f"from {low:.3f} (p10) to {high:.3f} (p90) of the usual one, divided out",
        "linearity": f"median {fitted.residual_median:.2%}, p95 {fitted.residual_p95:.2%} off the fitted parts",
    }


def with_notes(profile: LatencyProfile, notes: Mapping[str, str]) -> LatencyProfile:
    """The profile with more facts in its provenance."""
    machine: dict[str, Any] = {**profile.provenance.machine, **notes}
    return replace(profile, provenance=replace(profile.provenance, machine=machine))
