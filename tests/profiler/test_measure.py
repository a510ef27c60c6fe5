"""When points are measured again, when a machine is too noisy, what a budget buys, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from fake_device import GRID, FakeClock, fake_bench

from hispec_sim.errors import InputError
from hispec_sim.profiler.forwards import Episode, Kind, Point, What
from hispec_sim.profiler.measure import AGES_S, CHECK_SHARE, MOST_REPEATS, ROUNDS, is_wide, measure
from hispec_sim.profiler.measurement import Measurement
from hispec_sim.profiler.plan import Grid, chosen_grid
from hispec_sim.profiler.quiet import Probe

MANY = Grid(4, (1,), (1, 2, 4), (8, 16, 32, 64))
SMALL = Grid(4, (1,), (1,), (8, 16))


class Scripted:
    """Plays passes whose one span takes the scripted times in turn, again and again from the last."""

    def __init__(self, clock: FakeClock, script: dict[int, list[float]], default_ms: float = 10.0) -> None:
        self.clock, self.script, self.default_ms = clock, script, default_ms
        self.plays: list[Episode] = []

    def play(self, episode: Episode) -> list[tuple[Point, float]]:
        times = self.script.get(episode.context, [self.default_ms]) if episode.kind is Kind.PASS else [self.default_ms]
        ms = times[min(self.plays.count(episode), len(times) - 1)]
        self.plays.append(episode)
        self.clock.spend(ms)
        if episode.kind is not Kind.PASS:
            return []
        return [(Point(What.SPAN, 1, episode.query_tokens, episode.context, 0, 4, 1), ms)]

    def passes(self, context: int) -> int:
        return sum(e.kind is Kind.PASS and e.context == context for e in self.plays)


def steady(clock: FakeClock, ms: float = 1.0) -> Probe:
    return Probe(clock, lambda: clock.spend(ms))


def go(player: object, clock: FakeClock, measurement: Measurement, grid: Grid = SMALL, **changed: object) -> None:
    options = {"budget_s": 60.0, "allow_noise": False, "rng": np.random.default_rng(0)} | changed
    probe = options.pop("probe", None) or steady(clock)
    measure(measurement, grid, player, clock, probe, **options)


def span(context: int) -> Point:
    return Point(What.SPAN, 1, 1, context, 0, 4, 1)


def test_medians_are_those_of_the_script_and_the_first_round_is_not_kept():
    clock = FakeClock()
    times = [30.0, 10.0, 10.1, 10.2, 10.1, 10.0, 10.1, 10.1]
    measurement = Measurement({})
    player = Scripted(clock, {8: times})
    go(player, clock, measurement)
    assert measurement.samples[span(8)] == pytest.approx(times[1 : ROUNDS + 1])
    assert statistics.median(measurement.samples[span(8)]) == pytest.approx(10.1)
    assert len(measurement.samples[span(16)]) == ROUNDS
    assert measurement.spent_s == pytest.approx(clock.seconds)


def test_long_episodes_are_played_in_every_other_round():
    clock = FakeClock()
    player = Scripted(clock, {16: [41.0]})
    go(player, clock, Measurement({}))
    assert (player.passes(8), player.passes(16)) == (1 + ROUNDS, 1 + ROUNDS // 2 + 1)


def test_what_is_predicted_runs_between_scenes_and_has_a_share_of_their_time(tmp_path):
    clock, measurement = FakeClock(), Measurement({})
    player = Scripted(clock, {})
    before: list[int] = []

    def check() -> dict[str, list[float]]:
        before.append(len(player.plays))
        clock.spend(7.0)
        return {"a decode": [7.0]}

    go(player, clock, measurement, check=check)
    episodes = len(SMALL.episodes())
    assert before[0] == episodes + 1, "the first round only warms up"
    plays_s = ROUNDS * episodes * 0.01  # a play takes 10 ms
    assert len(before) * 0.007 == pytest.approx(CHECK_SHARE * plays_s, abs=0.007)
    assert set(np.diff(before)) == {3, 4}, "3.5 plays earn one"
    scenes = [number for number, scene in enumerate(measurement.scenes) if not scene.samples]
    assert {scene for scene, _ in measurement.checked["a decode"]} <= set(scenes)
    measurement.save(tmp_path / "state.json")
    again = Measurement.load(tmp_path / "state.json")
    assert again.checked == measurement.checked
    assert again.checked_ms() == {"a decode": pytest.approx([7.0] * len(before))}


def test_what_is_predicted_is_taken_at_the_usual_pace():
    """Half of the time everything takes twice as long, scenes and what is predicted alike."""
    clock, measurement = FakeClock(), Measurement({})

    def slower() -> float:
        return 1.0 + (int(clock.seconds / 0.6) % 2)

    class Slow(Scripted):
        def play(self, episode: Episode) -> list[tuple[Point, float]]:
            self.default_ms = 10.0 * slower()
            return super().play(episode)

    def check() -> dict[str, list[float]]:
        ms = 7.0 * slower()
        clock.spend(ms)
        return {"a decode": [ms]}

    probe = Probe(clock, lambda: clock.spend(0.1))
    go(Slow(clock, {}), clock, measurement, MANY, check=check, budget_s=30.0, probe=probe)
    raw = [ms for _, ms in measurement.checked["a decode"]]
    (usual,) = measurement.checked_ms().values()
    assert max(raw) == 2 * min(raw)
    assert np.quantile(usual, 0.8) < 1.1 * np.quantile(usual, 0.2), "but for the ends of slow times"
    assert np.median(usual) == pytest.approx(4 / 3 * 7.0, rel=0.05), "as long again in half of the time"


def test_the_time_of_others_is_not_of_the_budget():
    """What is measured, in which order and for how long does not depend on waiting in between."""

    def played(others_s: float) -> tuple[list[Episode], float]:
        clock, measurement = FakeClock(), Measurement({})
        player = Scripted(clock, {8: [10.0, 20.0, 10.0]}, default_ms=1.0)
        checks: list[float] = []

        def check() -> dict[str, list[float]]:
            checks.append(clock.seconds)
            return {}

        def rest() -> float:
            clock.spend(1000 * others_s)
            return others_s

        go(player, clock, measurement, budget_s=1.0, rest=rest, check=check)
        assert checks
        return player.plays, measurement.spent_s

    assert played(5.0)[0] == played(0.0)[0]
    assert played(5.0)[1] == pytest.approx(played(0.0)[1])


def test_only_wide_points_are_measured_again_and_until_they_are_sharp():
    clock, measurement = FakeClock(), Measurement({})
    noisy = [10.0] + [9.0, 11.0] * 4 + [10.0] * 200
    player = Scripted(clock, {8: noisy})
    go(player, clock, measurement)
    assert player.passes(16) == 1 + ROUNDS
    again = len(measurement.samples[span(8)])
    assert ROUNDS < again < MOST_REPEATS
    assert not is_wide(measurement.samples[span(8)])
    assert is_wide(measurement.samples[span(8)][:-1])


def test_a_point_that_never_gets_sharp_ends_with_the_budget_or_the_most_repeats():
    for budget_s, most in ((1.2, MOST_REPEATS - 1), (1e4, MOST_REPEATS)):
        clock, measurement = FakeClock(), Measurement({})
        go(Scripted(clock, {8: [5.0, 20.0] * 200}), clock, measurement, budget_s=budget_s)
        assert ROUNDS < len(measurement.samples[span(8)]) <= most
        assert clock.seconds < budget_s + 0.1


@pytest.mark.parametrize(
    ("ms", "wide"),
    [
        ([10.0, 10.0], True),  # too few to know
        ([10.0, 10.0, 10.0], False),
        ([9.0, 9.9, 10.0, 10.1, 11.0], False),  # .929 x .2 / sqrt(5) / 10 = .0083
        ([9.0, 9.8, 10.0, 10.2, 11.0], True),  # .0166
        ([9.8, 10.2] * (MOST_REPEATS // 2), False),
        ([0.0, 20.0] * (MOST_REPEATS // 2), False),  # given up
        ([-1.0, 0.0, 1.0], True),
    ],
)
def test_what_is_wide(ms, wide):
    assert is_wide(ms) == wide


@pytest.mark.parametrize(
    ("ms", "says"),
    [
        ([1.0] * 28 + [1.2] * 2, None),  # less than a tenth
        ([1.0] * 25 + [1.2] * 5, "other processes"),
        ([1.0] * 15 + [1.08] * 15, None),  # too few for a verdict on drift
        ([1.0] * 30 + [1.08] * 30, "frequency steps"),
        ([1.0, 9.0] * 5, None),  # too few for a verdict
    ],
)
def test_the_machine_is_judged_by_its_steady_work(ms, says):
    probe = Probe(FakeClock(), lambda: None, list(ms))
    complaint = probe.complaint()
    assert (complaint is None) if says is None else (complaint is not None and says in complaint)


def test_the_steady_work_warms_up_until_it_is_steady():
    clock, times = FakeClock(), iter([2.0] * 20 + [1.5] * 20 + [1.01] * 20 + [1.0] * 1000)
    probe = Probe(clock, lambda: clock.spend(next(times)))
    probe.warm_up()
    assert (probe.ms, next(times)) == ([], 1.0)
    assert clock.seconds == pytest.approx(20 * (2.0 + 1.5 + 1.01 + 1.0) / 1000)


def test_a_noisy_machine_is_refused_with_advice_unless_allowed():
    for allow_noise in (False, True):
        clock, measurement = FakeClock(), Measurement({})
        turn = iter(range(10**6))
        probe = Probe(clock, lambda clock=clock, turn=turn: clock.spend(1.0 + next(turn) % 2))
        saved: list[int] = []
        options = {"probe": probe, "allow_noise": allow_noise, "save": lambda saved=saved: saved.append(1)}
        if allow_noise:
            go(Scripted(clock, {}), clock, measurement, **options)
            assert measurement.samples
        else:
            with pytest.raises(InputError, match=r"too noisy .* other processes .*--resume, or say --allow-noise"):
                go(Scripted(clock, {}), clock, measurement, **options)
        assert saved
        assert measurement.probe_ms


def test_what_went_on_in_quiet_is_not_passed_off_as_quiet():
    """A machine that grows noisy is refused after a round; the steady work of all sessions stays in the file."""
    clock, measurement, runs = FakeClock(), Measurement({}), iter(range(10_000))
    growing_noisy = Probe(clock, lambda: clock.spend(1.0 if next(runs) < 75 else 2.0))
    with pytest.raises(InputError, match="too noisy"):
        go(Scripted(clock, {}), clock, measurement, probe=growing_noisy)
    assert measurement.scenes, "some was measured in noise"
    noisy = list(measurement.probe_ms)
    quiet = steady(clock)
    go(Scripted(clock, {}), clock, measurement, probe=quiet)
    assert measurement.probe_ms == [*noisy, *quiet.ms]
    assert max(measurement.probe_ms) == pytest.approx(2.0)


def test_a_budget_too_small_names_one_that_is_enough():
    clock = FakeClock()
    with pytest.raises(InputError, match=r"--budget is too small: 3 rounds .* give 2m,"):
        go(Scripted(clock, {}, default_ms=4000.0), clock, Measurement({}), budget_s=20.0)


def test_a_larger_budget_measures_a_finer_grid():
    coarse = Grid(4, (1, 4), (1, 2, 4, 8), (16, 64))
    cost_s = dict.fromkeys(coarse.episodes(), 1.0)
    round_s = float(len(cost_s))
    chosen = [chosen_grid(coarse, cost_s, share * round_s).query_tokens for share in (1.0, 1.2, 1.6, 9)]
    assert chosen[0] == coarse.query_tokens
    assert len(chosen[0]) < len(chosen[1]) < len(chosen[2]) < len(chosen[3])
    assert chosen[3] == (1, 2, 3, 4, 5, 6, 7, 8)
    assert chosen_grid(coarse, cost_s, 9 * round_s).batches == (1, 2, 4)


def test_rounds_are_shuffled_but_the_same_for_the_same_seed():
    orders = []
    for seed in (1, 1, 2):
        clock = FakeClock()
        player = Scripted(clock, {})
        measurement = Measurement({})
        go(player, clock, measurement, GRID, rng=np.random.default_rng(seed))
        orders.append(player.plays)
    assert orders[0] == orders[1] != orders[2]
    assert measurement.grid is not None
    warming, finer = GRID.episodes(), measurement.grid.episodes()
    rounds = [orders[0][len(warming) + k * len(finer) :][: len(finer)] for k in range(ROUNDS)]
    assert sorted(orders[0][: len(warming)]) == sorted(warming)
    assert all(sorted(each) == sorted(finer) for each in rounds)
    assert rounds[0] != rounds[1]


def test_ctrl_c_keeps_what_is_measured_and_a_later_run_goes_on(tmp_path):
    path, clock = tmp_path / "state.json", FakeClock()
    measurement = Measurement({"seed": 3})
    bench = fake_bench(clock)
    whole = bench.play
    left = iter(range(2 * len(GRID.episodes()) + 5))

    class Interrupted:
        def play(self, episode: Episode) -> list[tuple[Point, float]]:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return whole(episode)

    with pytest.raises(KeyboardInterrupt):
        go(Interrupted(), clock, measurement, GRID, budget_s=1e4, save=lambda: measurement.save(path))
    kept = Measurement.load(path)
    assert kept == measurement
    assert sum(kept.played.values()) == len(GRID.episodes()) + 5
    before = len(kept.scenes)
    go(bench, clock, kept, GRID, budget_s=1e4, save=lambda: kept.save(path))
    times = [scene.at_s for scene in kept.scenes]
    assert times == sorted(times)
    assert times[before] - times[before - 1] > AGES_S  # what another process saw is no neighbour
    assert set(kept.played.values()) == {ROUNDS, ROUNDS // 2 + 1}  # every round, or every other one for long ones
    assert Measurement.load(path) == kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"span"', '"spin"'),
        lambda text: json.dumps({**json.loads(text), "spent_s": None}),
        lambda text: text.replace('"n_layers"', '"layers"'),
        lambda text: json.dumps({**json.loads(text), "points": []}),
    ],
)
def test_a_damaged_state_is_refused_in_a_sentence(tmp_path, damage):
    path, clock = tmp_path / "state.json", FakeClock()
    measurement = Measurement({})
    go(Scripted(clock, {}), clock, measurement)
    measurement.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=r"state\.json is damaged .*; delete it and measure anew"):
        Measurement.load(path)


def test_no_state_is_told():
    with pytest.raises(InputError, match="no unfinished measurement"):
        Measurement.load(Path("/nonexistent/state.json"))
