"""From a device of known times to a profile that predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_device import (
    CHOOSE_MS,
    COMMIT_MS,
    GRID,
    HOST_MS,
    N_LAYERS,
    VOCABULARY,
    FakeClock,
    FakeForwards,
    behind_ms,
    embedding_ms,
    exit_head_ms,
    fake_bench,
    fixed_ms,
    head_ms,
    layer_ms,
)

from hispec_sim.latency import LatencyProfile, NetworkCost, Provenance
from hispec_sim.latency.completing import completed
from hispec_sim.models.cache import Piece
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.llama import Llama
from hispec_sim.networks import NetworkSpec
from hispec_sim.profiler import latency
from hispec_sim.profiler.clock import CudaClock
from hispec_sim.profiler.fit import fit
from hispec_sim.profiler.forwards import Episode, Kind, Point, What
from hispec_sim.profiler.measurement import Measurement
from hispec_sim.profiler.pace import Scene
from hispec_sim.profiler.parts import LEAST_MS
from hispec_sim.profiler.plan import Grid

NETWORK = NetworkSpec("n", N_LAYERS, 8, 2, 2, 4, 16, VOCABULARY)


def measured(grid: Grid = GRID, *, saved_ms: float = 0.0, seldom_ms: float = 0.0) -> dict[Point, list[float]]:
    """Every episode played three times."""
    bench, samples = fake_bench(FakeClock(), grid, saved_ms=saved_ms, seldom_ms=seldom_ms), {}
    for episode in 3 * grid.episodes():
        for point, ms in bench.play(episode):
            samples.setdefault(point, []).append(ms)
    return samples


def profile(samples: dict[Point, list[float]]) -> LatencyProfile:
    return LatencyProfile("fake", NETWORK, Provenance("float32", {}, "2026-01-01", "none", "fake"), fit(samples).rows)


def test_the_file_tells_the_clock_that_timed(monkeypatch):
    """Not the one that was asked for: on CUDA that is another."""
    bench, played = fake_bench(FakeClock()), 3 * GRID.episodes()
    scenes = [Scene(float(number), tuple(bench.play(episode))) for number, episode in enumerate(played)]
    asked = {"clock": "wall", "date": "2026-01-01", "command": "none", "allow_noise": True}
    monkeypatch.setattr(latency, "clock_for", lambda network, name: CudaClock())
    monkeypatch.setattr(latency, "machine_of", lambda model: {})
    model = SimpleNamespace(network=Llama(LlamaConfig(NETWORK, max_positions=128)))
    made, _ = latency.profile_of(Measurement(asked, GRID, scenes), model)
    assert made.provenance.machine["clock"] == "cuda events"


def test_a_verification_is_timed_behind_one_token():
    """In decoding a pass of several tokens follows drafts of one; a pass of one token follows its like."""
    bench = fake_bench(FakeClock())
    for tokens, whole_at in ((1, -1), (4, 0)):
        spans = [point for point, _ in bench.play(Episode(Kind.PASS, 1, tokens, 64)) if point.what is What.SPAN]
        assert [(point.first_layer, point.last_layer) for point in spans].index((0, N_LAYERS)) == whole_at % len(spans)


def test_scenes_begin_with_what_they_read_in_the_caches():
    """As decoding does, which has gone on for long. What is read anew takes longer for thirty milliseconds."""

    @dataclass
    class Caching(FakeForwards):
        held: tuple[int, int] = (0, 0)
        cold_until_s: float = 0.0

        def forward(self, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> torch.Tensor | None:
            read = (len(pieces), pieces[0].position + pieces[0].tokens)
            if read != self.held:
                self.held, self.cold_until_s = read, self.clock.seconds + 0.03
            if self.clock.seconds < self.cold_until_s:
                self.clock.spend(1.0)
            return super().forward(first_layer, last_layer, pieces)

    clock = FakeClock()
    bench = fake_bench(clock)
    caching = Caching(clock)
    cold = replace(bench, networks=dict.fromkeys(bench.networks, caching))
    for context in (8, 128, 8):
        episode = Episode(Kind.PASS, 1, 2, context)
        assert [ms for _, ms in cold.play(episode)] == pytest.approx([ms for _, ms in bench.play(episode)])


def test_every_part_is_found_again():
    fitted = fit(measured())
    assert fitted.residual_p95 < 1e-9
    assert all(row.origin == "measured" for row in fitted.rows)
    rows = {row.point: row for row in completed(fitted.rows)}
    for batch in (1, 4):
        for tokens in (1, 2, 4):
            assert rows["forward", 1, batch, tokens, 0].ms == pytest.approx(fixed_ms(batch, tokens))
            assert rows["embedding", 1, 1, batch * tokens, 0].ms == pytest.approx(embedding_ms(batch * tokens))
            assert rows["lm_head", 1, 1, batch * tokens, 0].ms == pytest.approx(head_ms(batch * tokens, VOCABULARY))
            for context in GRID.contexts:
                layer = rows["layer", 1, batch, tokens, context]
                assert layer.ms == pytest.approx(layer_ms(batch, tokens, context))
                assert (layer.origin, layer.repeats) == ("measured", 3)
                head = rows["exit_head_3", 1, batch, tokens, context]
                assert head.ms == pytest.approx(exit_head_ms(batch, tokens, context))
            shorter = rows["layer", 1, batch, tokens, 1]  # the line goes on
            assert (shorter.ms, shorter.origin) == (pytest.approx(layer_ms(batch, tokens, 1)), "derived")
        assert rows["host", 1, batch, 1, 0].ms == pytest.approx(HOST_MS * batch)
        for tokens in (1, 2, 4):
            choose_ms = (CHOOSE_MS + COMMIT_MS * (tokens - 1)) * batch
            assert rows["choose", 1, batch, tokens, 0].ms == pytest.approx(choose_ms)
    assert rows["lm_head_10", 1, 1, 4, 0].ms == pytest.approx(head_ms(4, 10))
    prompt = rows["layer_prefill", 1, 4, 128, 128]
    assert (prompt.ms, prompt.origin) == (pytest.approx(layer_ms(4, 128, 128)), "measured")


def test_query_tokens_between_the_coarse_ones_are_measured_at_two_contexts():
    """At their ends; a line tells the rest."""
    grid = replace(GRID, query_tokens=(1, 2, 3, 4))
    passes = [e for e in grid.episodes() if e.kind is Kind.PASS and e.batch == 1 and e.context > e.query_tokens]
    for tokens, contexts in ((1, (8, 64, 128)), (3, (8, 128)), (4, (8, 64, 128))):
        assert tuple(e.context for e in passes if e.query_tokens == tokens) == contexts
    found = {row.point: row for row in completed(fit(measured(grid)).rows)}
    for context, origin in ((8, "measured"), (64, "derived"), (128, "measured")):
        row = found["layer", 1, 4, 3, context]
        assert (row.ms, row.origin) == (pytest.approx(layer_ms(4, 3, context)), origin)


def test_layers_that_scatter_are_drawn_to_lines_along_the_context(monkeypatch):
    rng, grid = np.random.default_rng(0), replace(GRID, contexts=(8, 32, 64, 96, 128))
    bench, samples = fake_bench(FakeClock(), grid), {}
    for episode in 7 * grid.episodes():
        noise = np.exp(0.1 * rng.standard_normal())  # of a scene, and so of all its spans
        for point, ms in bench.play(episode):
            samples.setdefault(point, []).append(ms * noise)

    def scatter() -> float:
        rows = [row for row in fit(samples).rows if row.op == "layer" and row.origin == "measured"]
        return float(np.std([row.ms / layer_ms(row.batch, row.query_tokens, row.context) for row in rows]))

    drawn = scatter()
    monkeypatch.setattr("hispec_sim.profiler.fit.drawn", lambda curves: [curve.ms for curve in curves])
    assert drawn < 0.85 * scatter()


@pytest.mark.parametrize(("first", "last", "read"), [(0, 12, True), (0, 3, True), (3, 12, True), (0, 3, False)])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_profile_prices_what_the_device_takes(first, last, read, batch):
    """Embedding, fixed time, layers, exit head where exit 3 is read out, LM head, and the loop around them."""
    cost = NetworkCost(profile(measured()), tensor_parallel=1)
    tokens, context = 2, 64
    ms = cost.forward_ms(
        first_layer=first,
        last_layer=last,
        batch=batch,
        tokens=batch * tokens,
        logits=batch * tokens * read,
        context=context,
    )
    expected = fixed_ms(batch, tokens) + (last - first) * layer_ms(batch, tokens, context)
    expected += (behind_ms(last - first, 1 if read else None) + COMMIT_MS * (tokens - 1) * read) * batch
    expected += embedding_ms(batch * tokens) if first == 0 else 0.0
    if read:
        expected += head_ms(batch * tokens, VOCABULARY)
        expected += exit_head_ms(batch, tokens, context) if last == 3 else 0.0
    assert float(ms) == pytest.approx(expected)


def test_a_forward_in_a_row_costs_what_was_measured_of_such():
    cost = NetworkCost(profile(measured(saved_ms=0.5)), tensor_parallel=1)
    for last, logits, places in ((2, 4, (1, 2, 4, 8, 20)), (3, 4, (1, 4)), (7, 0, (2, 3, 5, 9, 20))):
        at = {
            "first_layer": 0,
            "last_layer": last,
            "batch": 4,
            "tokens": 4,
            "logits": logits,
            "context": GRID.contexts[-1],
        }
        for place in places:
            usual, row = cost.parts_ms(**at), cost.parts_ms(**at, in_row=place)
            saved_ms = sum(float(usual[part] - row[part]) for part in usual if part != "host")
            deepest = min(place, 8 if logits else 9)
            assert saved_ms == pytest.approx(0.5 * (1 - last / N_LAYERS) * (1 - 1 / deepest), abs=1e-9)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("first", [1, 3, 8, 10])
def test_the_target_comes_by_seldom(first, batch):
    """Behind rows of drafts a verification does not find its layers in the caches, as one behind its like does."""
    at = {"first_layer": first, "batch": batch, "tokens": 3 * batch, "context": 64}
    usual, seldom = (
        NetworkCost(profile(measured(seldom_ms=ms)), tensor_parallel=1).parts_ms(**at, last_layer=12, logits=3 * batch)
        for ms in (0.0, 0.6)
    )
    more_ms = sum(float(seldom[part] - usual[part]) for part in usual)
    assert more_ms == pytest.approx(0.6 * (1 - first / N_LAYERS), abs=1e-9)


@pytest.mark.parametrize("place", [None, 1, 2, 4, 20])
@pytest.mark.parametrize("layers", [1, 3, 8, 12])
def test_the_gap_is_that_behind_so_many_layers_and_drafts(layers, place):
    """Drafts behind drafts are followed by a shorter one; what one sequence of a batch does alone tells nothing."""
    cost = NetworkCost(profile(measured()), tensor_parallel=1)
    at = {"first_layer": 0, "last_layer": layers, "batch": 4, "tokens": 4, "logits": 4, "context": 64}
    later = place if place and layers < N_LAYERS else 1  # between the longest exit and all layers both count
    assert float(cost.parts_ms(**at, in_row=place)["host"]) == pytest.approx(4 * behind_ms(layers, later))


def test_parts_that_noise_makes_negative_are_held_at_nothing():
    samples = measured()
    for point, ms in samples.items():
        if point.what is What.SPAN and point.first_layer == 0:
            samples[point] = [x - 1.5 * embedding_ms(point.batch * point.query_tokens) for x in ms]
    rows = {row.point: row for row in fit(samples).rows}
    assert rows["embedding", 1, 1, 4, 0].ms == LEAST_MS
    assert rows["layer", 1, 1, 1, 64].ms == pytest.approx(layer_ms(1, 1, 64), rel=0.1)


def test_quantiles_are_those_of_the_forwards():
    samples = measured()
    samples = {point: [0.9 * ms[0], ms[0], 1.3 * ms[0]] for point, ms in samples.items()}
    for row in fit(samples).rows:
        if row.origin == "measured" and row.op == "layer":
            assert row.p10_ms == pytest.approx(row.ms * 0.92)
            assert row.p90_ms == pytest.approx(row.ms * 1.24)


def test_what_has_two_humps_is_priced_at_its_mean():
    """Drafts and the gaps behind them; other forwards at their medians, whose means the profile tells besides."""
    samples, late = measured(), (1.0, 1.0, 1.3)
    for point, ms in samples.items():
        if point.what in (What.REPEAT, What.DRAFTED):
            samples[point] = [ms[0], ms[0], 4 * ms[0]]
        elif point.what is What.SPAN:
            samples[point] = [x * y for x, y in zip(ms, late, strict=True)]
    usual, other = fit(measured()), fit(samples)
    assert other.mean_over_median == pytest.approx(1.1)
    ratio = {row.point: other_row.ms / row.ms for row, other_row in zip(usual.rows, other.rows, strict=True)}
    assert ratio["repeat_2", 1, 1, 1, 8] == pytest.approx(2.0 / 1.1)
    assert ratio["layer", 1, 1, 1, 64] == pytest.approx(1.0)
    assert ratio["choose_2", 1, 1, 1, 0] > 1.5


def test_a_process_put_aside_for_a_second_is_not_a_late_forward():
    samples = {point: [*ms, 1000.0] if point.what is What.SPAN else ms for point, ms in measured().items()}
    assert fit(samples).mean_over_median <= (3 + 4) / 4


def test_whole_forwards_are_priced_nearer_to_what_they_took_than_short_spans():
    """Spans of few layers that come out short, each for itself, do not make the whole network short."""
    samples, rng = measured(), np.random.default_rng(0)
    for point, ms in samples.items():
        if point.what is What.SPAN and point.last_layer - point.first_layer <= 2:
            samples[point] = [x * rng.uniform(0.8, 0.9) for x in ms]
    at = {"first_layer": 0, "last_layer": N_LAYERS, "batch": 1, "tokens": 1, "logits": 1, "context": 64}
    parts = NetworkCost(profile(samples), tensor_parallel=1).parts_ms(**at)
    took_ms = fixed_ms(1, 1) + embedding_ms(1) + N_LAYERS * layer_ms(1, 1, 64) + head_ms(1, VOCABULARY)
    assert sum(float(ms) for part, ms in parts.items() if part != "host") == pytest.approx(took_ms, rel=0.02)
