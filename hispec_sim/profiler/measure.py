"""The measuring itself: rounds of episodes in random order, until every median is sharp or the budget is used."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.profiler.clock import Clock
from hispec_sim.profiler.forwards import Episode, Kind, Point, Sample, What
from hispec_sim.profiler.moments import AnyMoment, Moments
from hispec_sim.profiler.pace import Scene, paces, steadied
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


class Player(Protocol):
    """Plays episodes (`forwards.Bench`, or a test's)."""

    def play(self, episode: Episode) -> list[Sample]:
        """What was timed."""
        ...


@dataclass(slots=True)
class Measurement:
    """What has been measured so far: which grid, the scenes in order, the seconds spent; and, of what the profile
    is to predict, by name the number of the scene, which has no samples, and its milliseconds."""

    settings: dict[str, Any]
    grid: Grid | None = None
    scenes: list[Scene] = field(default_factory=list)
    played: dict[Episode, int] = field(default_factory=dict)
    spent_s: float = 0.0
    probe_ms: list[float] = field(default_factory=list)
    checked: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def samples(self) -> dict[Point, list[float]]:
        """All times (ms) by point, in order."""
        found: dict[Point, list[float]] = {}
        for scene in self.scenes:
            for point, ms in scene.samples:
                found.setdefault(point, []).append(ms)
        return found

    def checked_ms(self) -> dict[str, list[float]]:
        """The times of what the profile is to predict, at the machine's usual pace."""
        slower = np.exp(paces(self.scenes))
        return {name: [ms / float(slower[scene]) for scene, ms in found] for name, found in self.checked.items()}

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        numbers = {point: number for number, point in enumerate(self.samples)}
        content = {
            "settings": self.settings,
            "grid": asdict(self.grid) if self.grid else None,
            "points": [astuple(point) for point in numbers],
            "scenes": [[scene.at_s, [[numbers[point], ms] for point, ms in scene.samples]] for scene in self.scenes],
            "played": [[astuple(episode), times] for episode, times in self.played.items()],
            "spent_s": self.spent_s,
            "probe_ms": self.probe_ms,
            "checked": self.checked,
        }
        unfinished = path.with_name(path.name + ".new")
        unfinished.write_text(json.dumps(content), encoding="utf-8")
        os.replace(unfinished, path)  # noqa: PTH105 - the atomic step, named as what it is

    @staticmethod
    def load(path: Path) -> Measurement:
        """Raises InputError if there is none, or it is damaged."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            grid: dict[str, Any] = content["grid"] or {}
            lists: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in grid.items()
            }
            points = [Point(What(point[0]), *point[1:]) for point in content["points"]]
            return Measurement(
                dict(content["settings"]),
                Grid(**lists) if lists else None,
                [
                    Scene(float(at_s), tuple((points[number], float(ms)) for number, ms in samples))
                    for at_s, samples in content["scenes"]
                ],
                {Episode(Kind(episode[0]), *episode[1:]): int(times) for episode, times in content["played"]},
                float(content["spent_s"]),
                [float(x) for x in content["probe_ms"]],
                {str(name): [(int(scene), float(ms)) for scene, ms in of] for name, of in content["checked"].items()},
            )
        except FileNotFoundError:
            raise InputError(f"there is no unfinished measurement to go on with (no {path})") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"{path} is damaged ({error!r}); delete it and measure anew") from None


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
    check: Callable[[], Mapping[str, Sequence[float]]] | None = None,
    rest: Callable[[], float] = lambda: 0.0,
    moments: Moments | None = None,
) -> None:
    """Fill `measurement` with samples.

    A first round, not kept, warms everything up and tells what episodes cost; then the grid is chosen, played in
    rounds of random order, and what is wide is played on until it is sharp or `budget_s` is used. KeyboardInterrupt
    saves and goes on to the caller. Between episodes `check` runs something that the profile is to predict, and returns
    milliseconds by name, as often as takes `CHECK_SHARE` of their time; `rest` may let others work, and returns for how
    many seconds: they are not of the budget, nor is what `moments` lose, in which episodes are played: all of them,
    unless given.
    Raises InputError on a noisy machine unless `allow_noise`, and when the budget is too small for three rounds.
    """
    began_s, saved_s, before_s, others_s = clock.now_s(), clock.now_s(), measurement.spent_s, 0.0
    owed_s = 0.0  # to what the profile is to predict
    moments = moments or AnyMoment()
    lost_before_s = moments.lost_s
    # What was measured before was measured long ago, whatever the clock of that process said.
    apart_s = measurement.scenes[-1].at_s + AGES_S - began_s if measurement.scenes else 0.0

    def spent_s() -> float:
        return before_s + clock.now_s() - began_s - others_s - (moments.lost_s - lost_before_s)

    def left_s() -> float:
        return budget_s - spent_s()

    def tell(text: str) -> None:
        show(Stand(text, min(1.0, spent_s() / budget_s), max(0.0, left_s())))

    def judge() -> None:
        measurement.spent_s, measurement.probe_ms = spent_s(), probe.ms
        if not allow_noise:
            probe.demand_quiet()

    def keep_scene(took_s: float, samples: Sequence[Sample]) -> None:
        measurement.scenes.append(Scene(clock.now_s() - took_s / 2 + apart_s, tuple(samples)))

    def play_check(check: Callable[[], Mapping[str, Sequence[float]]]) -> float:
        at_s, found = spent_s(), check()
        took_s = spent_s() - at_s
        keep_scene(took_s, ())
        for name, ms in found.items():
            measurement.checked.setdefault(name, []).extend((len(measurement.scenes) - 1, each) for each in ms)
        return took_s

    def play_round(
        episodes: Sequence[Episode], text: str, *, must_end: bool, keep: bool = True
    ) -> dict[Episode, float]:
        nonlocal saved_s, others_s, owed_s
        cost_s: dict[Episode, float] = {}
        for number, index in enumerate(rng.permutation(len(episodes))):
            if not must_end and left_s() <= 0:
                break
            others_s += rest()
            episode, at_s = episodes[index], spent_s()
            found = moments.measure(partial(player.play, episode), lambda: tell("waiting for a quiet moment"))
            cost_s[episode] = spent_s() - at_s
            if keep:
                keep_scene(cost_s[episode], found)
                measurement.played[episode] = measurement.played.get(episode, 0) + 1
                owed_s += CHECK_SHARE * cost_s[episode]
            probe.run()
            if keep and check and owed_s > 0:
                owed_s -= play_check(check)
            if clock.now_s() - saved_s > SAVE_EVERY_S:
                saved_s, measurement.spent_s = clock.now_s(), spent_s()
                save()
            tell(f"{text}, {number + 1} of {len(episodes)}")
        return cost_s

    try:
        probe.ms.clear()
        probe.warm_up()
        probe.run(30)
        judge()
        warmed = measurement.grid or coarse
        cost_s = play_round(warmed.episodes(), "warming up", must_end=True, keep=False)
        if measurement.grid is None:
            round_s = sum(cost_s.values())
            if FEWEST_ROUNDS * round_s > max(left_s(), 0.0) * 1.2:
                raise InputError(
                    f"--budget is too small: {FEWEST_ROUNDS} rounds of the coarsest grid take "
                    f"{FEWEST_ROUNDS * round_s:.0f} s and the first, for warming up, took {spent_s():.0f} s; give "
                    f"{math.ceil((FEWEST_ROUNDS * round_s + spent_s()) / 30) / 2:g}m, or fewer --batch or --contexts"
                )
            measurement.grid = chosen_grid(coarse, cost_s, COMPLETE_SHARE * left_s() / ROUNDS)
        episodes, long_s = measurement.grid.episodes(), long_from_s(cost_s)
        for number in range(1, ROUNDS + 1):
            due = [
                episode
                for episode in episodes
                if measurement.played.get(episode, 0)
                < (number if cost_s.get(episode, 0.0) <= long_s else rounds_of_long(number))
            ]
            play_round(due, f"round {number}", must_end=number <= FEWEST_ROUNDS)
            judge()
        while left_s() > 0 and (wide := wide_episodes(episodes, steadied(measurement.scenes), measurement.played)):
            play_round(wide, f"{len(wide)} wide", must_end=False)
            judge()
    finally:
        measurement.spent_s, measurement.probe_ms = spent_s(), list(probe.ms)
        save()


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
