"""The measuring itself: rounds of episodes in random order, until every median is sharp or the budget is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.profiler.clock import Clock
from hispec_sim.profiler.forwards import Episode, Kind, Point, Sample, What
from hispec_sim.profiler.measurement import Measurement
from hispec_sim.profiler.moments import AnyMoment, Moments
from hispec_sim.profiler.pace import Scene, steadied
from hispec_sim.profiler.plan import Grid, chosen_grid, long_from_s
from hispec_sim.profiler.quiet import Probe

FEWEST_ROUNDS = 3
"""No profile is made of fewer."""
ROUNDS = 7
"""Refinements leave room for so many; then only wide points are measured again."""
MOST_REPEATS = 80
WIDE = 0.01
"""Relative standard error of a median above which a point is wide."""
COMPLETE_SHARE = 0.85
"""Of the budget, for `ROUNDS` rounds of the chosen grid."""
SAVE_EVERY_S = 10.0
AGES_S = 3600.0
"""Scenes of an earlier process are taken to lie so far back: none of them tells the pace of one of this."""
CHECK_SHARE = 0.2
"""Of the time that scenes take, for what the profile is to predict, where that is asked for."""


Predicted = Callable[[], Mapping[str, Sequence[float]]]
"""Runs something that the profile is to predict; milliseconds by name."""


class Player(Protocol):
    """Plays episodes (`forwards.Bench`, or a test's)."""

    def play(self, episode: Episode) -> list[Sample]:
        """What was timed."""
        ...


@dataclass(frozen=True, slots=True)
class Stand:
    """How far a measurement is: which round, the share of the budget used, and points whose medians are not sharp."""

    text: str
    share: float
    left_s: float


def relative_error(ms: Sequence[float]) -> float:
    """Standard error of the median over the median, from the spread of the middle half; infinite below three runs."""
    if len(ms) < 3:
        return math.inf
    low, middle, high = np.quantile(ms, (0.25, 0.5, 0.75))
    return math.inf if middle <= 0 else float(1.253 * (high - low) / 1.349 / math.sqrt(len(ms)) / middle)


def is_wide(ms: Sequence[float]) -> bool:
    """Whether a point must be measured again."""
    return len(ms) < MOST_REPEATS and relative_error(ms) > WIDE


def measure(
    measurement: Measurement,
    coarse: Grid,
    player: Player,
    clock: Clock,
    probe: Probe,
    *,
    budget_s: float,
    allow_noise: bool,
    rng: np.random.Generator,
    save: Callable[[], None] = lambda: None,
    show: Callable[[Stand], None] = lambda stand: None,
    check: Predicted | None = None,
    rest: Callable[[], float] = lambda: 0.0,
    moments: Moments | None = None,
) -> None:
    """Fill `measurement` with samples.

    A first round, not kept, warms everything up and tells what episodes cost; then the grid is chosen, played in
    rounds of random order, and what is wide is played on until it is sharp or `budget_s` is used. KeyboardInterrupt
    saves and goes on to the caller. Between episodes `check` is called as often as takes `CHECK_SHARE` of their time,
    and `rest`, which may let others work, and returns for how many seconds: they are not of the budget, nor is what
    `moments` lose, in which episodes are played: all of them, unless given.
    Raises InputError on a noisy machine unless `allow_noise`, and when the budget is too small for three rounds.
    """
    session = _Session(
        measurement, player, clock, probe, budget_s, allow_noise, rng, save, show, check, rest, moments or AnyMoment()
    )
    try:
        session.warm_up(coarse)
        session.play_rounds()
    finally:
        session.note()
        save()


@dataclass(slots=True)
class _Session:
    """The arguments of `measure`, and the seconds of one process: when it began and last saved, what others had of its
    time, how far scenes of an earlier one lie back, how long its steady work took, and what is owed to what the profile
    is to predict."""

    measurement: Measurement
    player: Player
    clock: Clock
    probe: Probe
    budget_s: float
    allow_noise: bool
    rng: np.random.Generator
    save: Callable[[], None]
    show: Callable[[Stand], None]
    check: Predicted | None
    rest: Callable[[], float]
    moments: Moments
    began_s: float = field(init=False)
    saved_s: float = field(init=False)
    before_s: float = field(init=False)
    apart_s: float = field(init=False)
    probed_ms: list[float] = field(init=False)
    others_s: float = 0.0
    owed_s: float = 0.0
    cost_s: dict[Episode, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scenes = self.measurement.scenes
        self.began_s = self.saved_s = self.clock.now_s()
        self.before_s = self.measurement.spent_s + self.moments.lost_s
        self.probed_ms = list(self.measurement.probe_ms)
        # What was measured before was measured long ago, whatever the clock of that process said.
        self.apart_s = scenes[-1].at_s + AGES_S - self.began_s if scenes else 0.0

    def spent_s(self) -> float:
        return self.before_s + self.clock.now_s() - self.began_s - self.others_s - self.moments.lost_s

    def left_s(self) -> float:
        return self.budget_s - self.spent_s()

    def tell(self, text: str) -> None:
        self.show(Stand(text, min(1.0, self.spent_s() / self.budget_s), max(0.0, self.left_s())))

    def note(self) -> None:
        self.measurement.spent_s = self.spent_s()
        # Each session is judged by its own steady work; the file tells of all that anything was measured beside.
        self.measurement.probe_ms = [*self.probed_ms, *self.probe.ms]

    def judge(self) -> None:
        self.note()
        if not self.allow_noise:
            self.probe.demand_quiet()

    def warm_up(self, coarse: Grid) -> None:
        """Play everything once, learn what it costs, and choose the grid if there is none."""
        self.probe.ms.clear()
        self.probe.warm_up()
        self.probe.run(30)
        self.judge()
        self.cost_s = self.play((self.measurement.grid or coarse).episodes(), "warming up", must_end=True, keep=False)
        if self.measurement.grid is None:
            round_s = sum(self.cost_s.values())
            if FEWEST_ROUNDS * round_s > max(self.left_s(), 0.0) * 1.2:
                raise InputError(
                    f"--budget is too small: {FEWEST_ROUNDS} rounds of the coarsest grid take "
                    f"{FEWEST_ROUNDS * round_s:.0f} s and the first, for warming up, took {self.spent_s():.0f} s; give "
                    f"{math.ceil((FEWEST_ROUNDS * round_s + self.spent_s()) / 30) / 2:g}m, or fewer --batch or "
                    "--contexts"
                )
            self.measurement.grid = chosen_grid(coarse, self.cost_s, COMPLETE_SHARE * self.left_s() / ROUNDS)

    def play_rounds(self) -> None:
        """The chosen grid in `ROUNDS`, then what is wide, until all is sharp or the budget is used."""
        measurement = self.measurement
        assert measurement.grid is not None
        episodes, long_s = measurement.grid.episodes(), long_from_s(self.cost_s)
        for number in range(1, ROUNDS + 1):
            due = [
                episode
                for episode in episodes
                if measurement.played.get(episode, 0)
                < (number if self.cost_s.get(episode, 0.0) <= long_s else rounds_of_long(number))
            ]
            self.play(due, f"round {number}", must_end=number <= FEWEST_ROUNDS)
            self.judge()
        while self.left_s() > 0 and (wide := wide_episodes(episodes, steadied(measurement.scenes), measurement.played)):
            self.play(wide, f"{len(wide)} wide", must_end=False)
            self.judge()

    def play(
        self, episodes: Sequence[Episode], text: str, *, must_end: bool, keep: bool = True
    ) -> dict[Episode, float]:
        """The episodes in random order, and what each cost."""
        cost_s: dict[Episode, float] = {}
        for number, index in enumerate(self.rng.permutation(len(episodes))):
            if not must_end and self.left_s() <= 0:
                break
            self.others_s += self.rest()
            episode, at_s = episodes[index], self.spent_s()
            found = self.moments.measure(
                partial(self.player.play, episode), lambda: self.tell("waiting for a quiet moment")
            )
            cost_s[episode] = self.spent_s() - at_s
            if keep:
                self.keep_scene(cost_s[episode], found)
                self.measurement.played[episode] = self.measurement.played.get(episode, 0) + 1
            self.probe.run()
            if keep and self.check:
                self.owed_s += CHECK_SHARE * cost_s[episode]
                self.pay(self.check)
            if self.clock.now_s() - self.saved_s > SAVE_EVERY_S:
                self.saved_s = self.clock.now_s()
                self.note()
                self.save()
            self.tell(f"{text}, {number + 1} of {len(episodes)}")
        return cost_s

    def keep_scene(self, took_s: float, samples: Sequence[Sample]) -> None:
        middle_s = self.clock.now_s() - took_s / 2
        self.measurement.scenes.append(Scene(middle_s + self.apart_s, tuple(samples)))

    def pay(self, check: Predicted) -> None:
        """Run something that the profile is to predict, if its time has come; it is a scene without samples."""
        if self.owed_s <= 0:
            return
        at_s, found = self.spent_s(), check()
        took_s = self.spent_s() - at_s
        self.owed_s -= took_s
        self.keep_scene(took_s, ())
        scene = len(self.measurement.scenes) - 1
        for name, ms in found.items():
            self.measurement.checked.setdefault(name, []).extend((scene, each) for each in ms)


def rounds_of_long(number: int) -> int:
    """How many of the first `number` rounds a long episode is played in: the fewest that any profile has, and every
    other one behind them."""
    return max(min(number, FEWEST_ROUNDS), number // 2 + 1)


def wide_episodes(
    episodes: Sequence[Episode], samples: Mapping[Point, Sequence[float]], played: Mapping[Episode, int]
) -> list[Episode]:
    """The episodes that have a forward whose median is not sharp yet."""
    wide = {_scene(point) for point, ms in samples.items() if _counts(point) and is_wide(ms)}
    return [e for e in episodes if played.get(e, 0) < MOST_REPEATS and _scene_of(e) in wide]


def _counts(point: Point) -> bool:
    return point.what in (What.SPAN, What.REPEAT, What.EXIT_HEAD)


def _scene(point: Point) -> tuple[object, ...]:
    if point.what is What.SPAN:
        return (Kind.PASS, point.batch, point.query_tokens, point.context)
    if point.what is What.REPEAT:
        return (Kind.DRAFTS, point.batch, point.context, point.last_layer)
    return (Kind.EXIT_HEAD, point.batch, point.query_tokens, point.last_layer)


def _scene_of(episode: Episode) -> tuple[object, ...]:
    if episode.kind is Kind.PASS:
        return (Kind.PASS, episode.batch, episode.query_tokens, episode.context)
    if episode.kind is Kind.DRAFTS:
        return (Kind.DRAFTS, episode.batch, episode.context, episode.layer)
    return (episode.kind, episode.batch, episode.query_tokens, episode.layer)
