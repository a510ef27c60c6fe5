"""Search for the best point of each policy where the space is too big for a grid, with Optuna's tree-structured Parzen
estimator. The same seed asks for the same points, so an interrupted search runs again from what the store has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import optuna

from hispec_sim.sweep.part import Part
from hispec_sim.sweep.space import Point, Space

_BATCH = 8  # points that a policy asks for before it learns from them; not by workers, so that the search is the same
_MISSES = 1_000  # suggestions in a row that are known or barred: the policy's space is exhausted, or nearly

Objective = Callable[[Sequence[Point]], Sequence[float]]
"""What is to be largest, for each of some points."""


def search(space: Space, objective: Objective, evaluations: int, seed: int) -> list[Point]:
    """Ask for at most so many points, shared out among the policies; returns them in the order of asking.

    Raises InputError when a policy has no point that meets the constraints, or none is found.
    """
    shares = _shares(space, evaluations)
    searches = [_Search(part, share, seed) for part, share in zip(space.parts, shares, strict=True)]
    asked: list[Point] = []
    while True:
        batches = [one.ask() for one in searches]
        for part, share, batch in zip(space.parts, shares, batches, strict=True):
            if share and not batch and not asked:
                raise space.no_point_of(part)
        points = [point for batch in batches for point in batch]
        if not points:
            break
        values = iter(objective(points))
        for one, batch in zip(searches, batches, strict=True):
            one.tell(batch, [next(values) for _ in batch])
        asked += points
    return asked


def _shares(space: Space, evaluations: int) -> list[int]:
    """Equal shares, but to none more than its space has; what is left goes to the larger ones."""
    shares = [0] * len(space.parts)
    left = evaluations
    for done, index in enumerate(sorted(range(len(shares)), key=lambda index: space.parts[index].size)):
        shares[index] = min(space.parts[index].size, left // (len(shares) - done))
        left -= shares[index]
    return shares


class _Search:
    """The search within one policy."""

    def __init__(self, part: Part, evaluations: int, seed: int) -> None:
        self._part, self._left = part, evaluations
        self._known: dict[tuple[Any, ...], float] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed, multivariate=True, n_startup_trials=max(10, evaluations // 5), constant_liar=True
            )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._numeric = {axis.name: _numeric(axis.values) for axis in part.axes}
        self._trials: list[optuna.Trial] = []
        self._all = part.combinations() if evaluations >= part.size else None

    def ask(self) -> list[Point]:
        """New points that meet the constraints; none when the share is used up or the space exhausted."""
        if self._all is not None:  # nothing to choose
            return [Point(self._part, values) for values in islice(self._all, _BATCH)]
        points: list[Point] = []
        misses = 0
        while len(points) < min(_BATCH, self._left) and misses < _MISSES:
            trial = self._study.ask()
            values = {axis.name: self._suggest(trial, axis.name, axis.values) for axis in self._part.axes}
            key = tuple(values.values())
            if key in self._known or not self._part.holds(values):
                misses += 1
                known = self._known.get(key)
                if known is None or known != known:  # barred, or asked for in this batch
                    self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    self._study.tell(trial, known)
                continue
            misses = 0
            self._known[key] = float("nan")
            self._trials.append(trial)
            points.append(Point(self._part, values))
        self._left = 0 if misses else self._left - len(points)
        return points

    def tell(self, points: Sequence[Point], values: Sequence[float]) -> None:
        """What came of the points that were asked for last."""
        for trial, point, value in zip(self._trials, points, values, strict=self._all is None):
            self._study.tell(trial, value)
            self._known[tuple(point.values.values())] = value
        self._trials.clear()

    def _suggest(self, trial: optuna.Trial, name: str, values: Sequence[Any]) -> Any:
        if self._numeric[name]:
            return sorted(values)[trial.suggest_int(name, 0, len(values) - 1)]
        return values[trial.suggest_categorical(name, range(len(values)))]


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
