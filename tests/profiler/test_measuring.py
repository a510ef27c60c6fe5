"""Measuring with a device whose times are known: exact medians, what is measured again, and when it stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hispec_sim.errors import InputError
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.latency.profile import LatencyProfile, Provenance
from hispec_sim.networks import NetworkSpec
from hispec_sim.profiler.fit import fit_rows
from hispec_sim.profiler.measure import LEAST_ROUNDS, Samples, is_sure, measure, read_samples, spread, write_samples
from hispec_sim.profiler.passes import Grid, Pass, Shot, cuts_of, passes

SHAPE = NetworkSpec("toy", 40, 64, 4, 2, 16, 128, 512, True)
GRID = Grid((1, 2), (1, 2, 4), (32, 64))


@dataclass
class FakeDevice:
    """Times follow a formula; a pass in `unsteady` takes twice as long every other time; the clock is the sum."""

    unsteady: set[Pass] = field(default_factory=set)
    probes: list[float] = field(default_factory=lambda: [1.0])
    now_s: float = 0.0
    runs: dict[Pass, int] = field(default_factory=dict)

    def clock_s(self) -> float:
        return self.now_s

    def run_pass(self, shots: Pass) -> list[float]:
        self.runs[shots] = self.runs.get(shots, 0) + 1
        slow = 2.0 if shots in self.unsteady and self.runs[shots] % 2 else 1.0
        found = [slow * true_ms(shot) for shot in shots]
        self.now_s += sum(found) / 1000
        return found

    def probe_ms(self) -> float:
        self.probes.append(self.probes.pop(0))
        return self.probes[0]


def true_ms(shot: Shot) -> float:
    """F + layers x L + E + H, exit head 8 and a cheaper layer behind itself."""
    tokens = shot.batch * shot.query_tokens
    layer = (0.04 if shot.repeat else 0.1) * (1 + 0.05 * tokens) + shot.context / 10_000
    head = (0.3 + 0.01 * tokens) if shot.read_out else 0.0
    own = 0.5 + 0.001 * shot.context if shot.read_out and shot.last_layer == 8 else 0.0
    fixed = 0.2 + 0.05 * shot.batch
    embedding = 0.02 * tokens if shot.first_layer == 0 else 0.0
    return fixed + (shot.last_layer - shot.first_layer) * layer + embedding + head + own


def measured(device: FakeDevice, **options: object) -> tuple[Samples, float]:
    todo = passes(40, GRID, [8], [2])
    return measure(device, todo, budget_s=1e6, clock_s=device.clock_s, **options)  # type: ignore[arg-type]


def test_steady_points_are_measured_no_more_than_needed() -> None:
    samples, noise = measured(FakeDevice())
    assert {len(times) for times in samples.values()} == {LEAST_ROUNDS}
    assert noise == 1.0


def test_only_unsteady_points_are_measured_again() -> None:
    wild = passes(40, GRID, [8], [2])[3]
    samples, _ = measured(FakeDevice(unsteady={wild}))
    assert len(samples[wild]) == 200  # never sure: as often as it goes
    assert {len(times) for each, times in samples.items() if each != wild} == {LEAST_ROUNDS}


def test_a_median_is_sure_when_its_standard_error_is_a_hundredth() -> None:
    wide = [[value] for value in (1.0, 1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 1.5)]
    assert not is_sure([[1.0]] * (LEAST_ROUNDS - 1))
    assert is_sure([[1.0]] * LEAST_ROUNDS)
    assert not is_sure(wide)  # 1.25 x .5 / 2.56 / sqrt(8) = .086
    assert is_sure(wide + [[1.0]] * 80)  # p90 is 1


def test_the_profile_is_the_formula_again() -> None:
    """All parts come out of the spans exactly, and so does a span that was never timed."""
    samples, _ = measured(FakeDevice())
    rows = fit_rows(
        samples,
        heads=[8],
        repeats=[2],
        choose_ms={(b, q): 0.01 * b * q for b in (1, 2) for q in (1, 2, 4)},
        host_ms={1: 0.07, 2: 0.09},
    )
    provenance = Provenance("float32", {"torch": "2"}, "2026-01-01", "hispec profile run", "a formula")
    profile = LatencyProfile("cpu_toy", SHAPE, provenance, tuple(sorted(rows, key=lambda row: row.point)))
    cost = NetworkCost(profile, tensor_parallel=1)
    for batch, query_tokens in ((1, 1), (1, 4), (2, 2)):
        for first, last in ((0, 13), (13, 40), (0, 40)):
            shot = Shot(first, last, batch, query_tokens, 64, read_out=last == 40)
            rows_read = batch * query_tokens if shot.read_out else 0
            outside = (0.07 if batch == 1 else 0.09) + 0.01 * rows_read
            priced = cost.forward_ms(first_layer=first, last_layer=last, batch=batch, tokens=batch * query_tokens,
                                     logits=rows_read, context=64)  # fmt: skip
            assert float(priced) == pytest.approx(true_ms(shot) + outside, rel=2e-3)
    head = cost.forward_ms(first_layer=0, last_layer=8, batch=1, tokens=1, logits=1, context=64)
    assert float(head) == pytest.approx(true_ms(Shot(0, 8, 1, 1, 64, read_out=True)) + 0.08, rel=2e-3)
    again = cost.forward_ms(first_layer=0, last_layer=2, batch=1, tokens=1, logits=0, context=64, repeat=True)
    assert float(again) == pytest.approx(true_ms(Shot(0, 2, 1, 1, 64, read_out=False, repeat=True)) + 0.07, rel=2e-3)


def test_a_noisy_machine_is_refused_unless_allowed() -> None:
    with pytest.raises(InputError, match="too noisy"):
        measured(FakeDevice(probes=[1.0, 2.0]))
    _, noise = measured(FakeDevice(probes=[1.0, 2.0]), allow_noise=True)
    assert noise == 2.0


def test_the_budget_ends_it() -> None:
    device = FakeDevice()
    todo = passes(40, GRID, [8], [2])
    samples, _ = measure(device, todo, budget_s=0.1, clock_s=device.clock_s)
    assert 0.1 <= device.now_s < 0.2
    assert any(samples.values()) and not all(samples.values())  # noqa: PT018


def test_what_was_measured_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    path, about = tmp_path / "x.samples.json", {"model": "toy", "threads": 1}
    first = FakeDevice()
    todo = passes(40, GRID, [8], [2])
    stops = iter([True] * 30 + [False] * 10)
    samples, _ = measure(first, todo, budget_s=1e6, clock_s=first.clock_s, keep_on=lambda: next(stops))
    write_samples(path, about, samples)
    second = FakeDevice()
    rest, _ = measured(second, samples=read_samples(path, about))
    assert sum(second.runs.values()) == LEAST_ROUNDS * len(todo) - sum(map(len, samples.values()))
    assert {len(times) for times in rest.values()} == {LEAST_ROUNDS}
    with pytest.raises(InputError, match="threads 1, not 2"):
        read_samples(path, {**about, "threads": 2})
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match="damaged"):
        read_samples(path, about)


def test_passes_end_at_the_last_layer_and_cover_all_layers() -> None:
    for each in passes(40, GRID, [8], [2]):
        assert each[-1].last_layer == 40
        ends = {0} | {shot.last_layer for shot in each}
        assert all(shot.first_layer in ends for shot in each)
    assert cuts_of(40) == (2, 5, 10, 20)
    assert cuts_of(2) == (1,)


@pytest.mark.parametrize(
    ("axes", "message"),
    [(((), (1,), (8,)), "batches"), (((1,), (2, 1), (8,)), "query_tokens"), (((1,), (1, 16), (8,)), "cannot hold")],
)
def test_a_grid_is_checked(axes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Grid(*axes)


def test_spread() -> None:
    assert spread([1.0] * 10) == 1.0
    assert spread([1.0, 2.0] * 10) == 2.0
