"""What was measured while others used the processor is measured again, until it was not."""

from __future__ import annotations

import numpy as np
import pytest
from fake_device import FakeClock

from hispec_sim.errors import InputError
from hispec_sim.profiler.forwards import Episode, Kind, Point, What
from hispec_sim.profiler.measure import ROUNDS, measure
from hispec_sim.profiler.measurement import Measurement
from hispec_sim.profiler.moments import LEARN, LOOK, PATIENCE_S, PAUSE_S, AnyMoment, QuietMoments
from hispec_sim.profiler.plan import Grid
from hispec_sim.profiler.quiet import Probe

STEADY_MS = 10.0
LOOK_S = (LOOK + 1) * STEADY_MS / 1000
LEARNT_S = LEARN * (LOOK_S + PAUSE_S)


class Shared(FakeClock):
    """A clock of a machine that is slower by a half between the given seconds."""

    slow: tuple[tuple[float, float], ...] = ()

    def work(self, ms: float) -> float:
        """What it takes when it begins now, in milliseconds."""
        taken = ms * (1.5 if any(first <= self.seconds < last for first, last in self.slow) else 1.0)
        self.spend(taken)
        return taken

    def pause(self, seconds: float) -> None:
        self.spend(1000 * seconds)

    def moments(self) -> QuietMoments:
        return QuietMoments(self, [lambda: self.work(STEADY_MS)], 1.15, pause=self.pause)


def test_a_disturbed_piece_is_measured_again() -> None:
    clock = Shared()
    moments = clock.moments()
    assert clock.seconds == pytest.approx(LEARNT_S)
    assert moments.measure(lambda: clock.work(500.0)) == 500.0
    assert moments.lost_s == pytest.approx(2 * LOOK_S)
    clock.slow = ((clock.seconds + 0.3, clock.seconds + 2.0),)
    before_s, lost_s = clock.seconds, moments.lost_s
    runs: list[float] = []
    assert moments.measure(lambda: runs.append(clock.seconds) or clock.work(500.0)) == 500.0
    assert len(runs) == 2
    assert clock.seconds > before_s + 2.0
    assert moments.lost_s - lost_s == pytest.approx(clock.seconds - before_s - 0.5)


def test_work_waits_for_a_quiet_moment() -> None:
    clock = Shared()
    moments = clock.moments()
    clock.slow = ((clock.seconds, clock.seconds + 5.0),)
    runs: list[float] = []
    began_s, lost_s = clock.seconds, moments.lost_s
    waits: list[tuple[float, float]] = []

    def waiting() -> None:
        waits.append((clock.seconds - began_s, moments.lost_s - lost_s))

    assert moments.measure(lambda: runs.append(clock.seconds) or clock.work(500.0), waiting) == 500.0
    assert len(runs) == 1
    assert waits[-1][0] > 4.0, "told as long as it waits"
    assert [lost for _, lost in waits] == pytest.approx([waited for waited, _ in waits]), "which is lost at once"


def test_each_kind_of_steady_work_is_a_judge() -> None:
    """Others who read memory leave computing as it is, and the other way round."""
    clock = Shared()
    slower = {"computing": 1.0, "reading": 1.0}
    steady = [lambda name=name: clock.spend(STEADY_MS * slower[name]) for name in slower]
    moments = QuietMoments(clock, steady, 1.15, pause=clock.pause)
    for name in slower:
        waited: list[str] = []

        def waiting(name: str = name, waited: list[str] = waited) -> None:
            waited.append(name)
            slower[name] = 1.0

        slower[name] = 1.2
        moments.measure(lambda: None, waiting)
        assert waited == [name]


def test_learning_while_others_work() -> None:
    """Quiet in a fifth of the time is enough to know what quiet is."""
    clock = Shared()
    clock.slow = ((0.0, 0.8 * LEARNT_S),)
    moments = clock.moments()
    clock.slow += ((clock.seconds, clock.seconds + 3.0),)
    assert moments.measure(lambda: clock.work(500.0)) == 500.0


def test_the_best_is_not_beaten_by_much() -> None:
    """A bound that nothing can meet, or no number, is refused before anything is learnt."""
    for most in (1.0, 0.5, float("nan")):
        with pytest.raises(InputError, match=r"--quiet must be above 1, such as 1\.15, got "):
            QuietMoments(Shared(), [], most)


def test_patience_ends() -> None:
    clock = Shared()
    moments = clock.moments()
    clock.slow, began_s = ((clock.seconds, 1e9),), clock.seconds
    with pytest.raises(
        InputError, match=r"no quiet moment .* 1\.50 times .*at most 1\.15 .* --resume .* with a larger --quiet"
    ):
        moments.measure(lambda: clock.work(500.0))
    assert PATIENCE_S < clock.seconds - began_s < PATIENCE_S + 1.0


def test_a_profile_of_quiet_moments() -> None:
    """Every sample is that of a quiet machine, and what was lost is not of the budget; without, some are slow."""
    grid = Grid(n_layers=4, batches=(1,), query_tokens=(1,), contexts=(8, 16))
    point = Point(What.SPAN, 1, 1, 8, 0, 4, 1)
    samples, spent_s = {}, {}
    for quiet in (True, False):
        clock = Shared()
        clock.slow = tuple((at, at + 2.0) for at in np.arange(LEARNT_S + 1.0, 200.0, 5.0))

        class Player:
            def play(self, episode: Episode, clock: Shared = clock) -> list[tuple[Point, float]]:
                ms = clock.work(400.0)
                return [(Point(What.SPAN, 1, 1, episode.context, 0, 4, 1), ms)] if episode.kind is Kind.PASS else []

        moments = clock.moments() if quiet else AnyMoment()
        clock.seconds, measurement = max(clock.seconds, LEARNT_S), Measurement({})
        measure(
            measurement,
            grid,
            Player(),
            clock,
            Probe(clock, lambda clock=clock: clock.work(STEADY_MS)),
            budget_s=60.0,
            allow_noise=True,
            rng=np.random.default_rng(0),
            moments=moments,
        )
        samples[quiet], spent_s[quiet] = measurement.samples[point], measurement.spent_s
        assert measurement.spent_s == pytest.approx(clock.seconds - LEARNT_S - moments.lost_s)
    assert set(samples[True]) == {400.0}
    assert len(samples[True]) >= ROUNDS
    assert 600.0 in samples[False]
