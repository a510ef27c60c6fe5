"""The reference model and a latency profile of it, measured once for all tests of a process."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch

from hispec_sim.latency.profile import LatencyProfile, Provenance
from hispec_sim.models.layouts import lay_out_for_cpu
from hispec_sim.models.loading import LoadedModel, load_model
from hispec_sim.profiler import measure
from hispec_sim.profiler.bench import open_bench, steady_work
from hispec_sim.profiler.clock import ProcessorClock
from hispec_sim.profiler.fit import fit
from hispec_sim.profiler.machine import machine_of
from hispec_sim.profiler.plan import Grid
from hispec_sim.profiler.quiet import Probe

EXITS = (2, 8)


@cache
def reference() -> tuple[LoadedModel, LatencyProfile]:
    torch.set_num_threads(1)
    model = load_model("reference")
    lay_out_for_cpu(model.network)
    return model, _profile_of_the_moment(model)


def _profile_of_the_moment(model: LoadedModel) -> LatencyProfile:
    """What `hispec profile run` measures, on few points and in the fewest rounds; in processor time of this thread, so
    that what else runs matters less."""
    network = model.network
    grid = Grid(network.config.shape.n_layers, batches=(1, 4), query_tokens=(1, 4, 12), contexts=(16, 256))
    clock, measurement = ProcessorClock(), measure.Measurement({})
    bench = open_bench(network, grid, clock, EXITS, seed=0)
    probe = Probe(clock, steady_work(torch.device("cpu")))
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "ROUNDS", measure.FEWEST_ROUNDS)
        patch.setattr(measure, "WIDE", math.inf)
        patch.setattr(Grid, "refinements", lambda grid: [])
        measure.measure(measurement, grid, bench, clock, probe, budget_s=600, allow_noise=True, rng=rng)
    about = Provenance("float32", {}, "2026-01-01", "in a test", "few points", machine_of(model))
    return LatencyProfile("this machine", network.config.shape, about, fit(measurement.samples).rows)
