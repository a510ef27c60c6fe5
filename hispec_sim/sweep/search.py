"""Search for the best point of each policy where the space is too big for a grid, with Optuna's tree-structured Parzen
estimator. The same seed asks for the same points, so an interrupted search runs again from what the store has."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import optuna

from hispec_sim.sweep.part import Part
from hispec_sim.sweep.space import Point, Space

_BATCH = 8  # points that a policy asks for before it learns from them; not by workers, so that the search is the same
_ROUNDS = 12  # of learning that a policy has at least, if need be with smaller batches
_STARTUP = 3  # points without any idea, at least
_MISSES = 1_000  # suggestions in a row that are known or barred: the policy's space is exhausted, or nearly

Place = tuple[int, ...]
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
        elsewhere = _best_of(searches)
        batches = [one.ask(elsewhere) for one in searches]
        for part, share, batch in zip(space.parts, shares, batches, strict=True):
            if share and not batch and not asked:
                raise space.no_point_of(part)
        points = [point for batch in batches for point in batch]
        if not points:
            break
        values = iter(objective(points))
        for one, batch in zip(searches, batches, strict=True):
            one.tell([next(values) for _ in batch])
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


def _best_of(searches: Sequence[_Search]) -> Mapping[str, Any]:
    """Where the best point of all policies is, so that a policy tries what is good on axes that both have."""
    found = [one.best for one in searches if one.best is not None]
    return max(found, key=lambda best: best[0])[1] if found else {}


class _Search:
    """The search within one policy, over places: an index into the (sorted) values of each axis."""

    def __init__(self, part: Part, evaluations: int, seed: int) -> None:
        self._part, self._left = part, evaluations
        self._axes = {axis.name: _ordered(axis.values) for axis in part.axes}
        self._known: dict[Place, float] = {}
        self._asked: list[tuple[Place, optuna.Trial]] = []
        self._batch = min(_BATCH, max(1, evaluations // _ROUNDS))
        self._startup = max(_STARTUP, evaluations // 5)
        self._rng = random.Random(f"{seed} {part.policy}")
        self._turn = cycle((self._beside_the_best, self._sampled, self._beside_the_best))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed, multivariate=True, n_startup_trials=self._startup, constant_liar=True
            )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._all = part.combinations() if evaluations >= part.size else None

    @property
    def best(self) -> tuple[float, Mapping[str, Any]] | None:
        """The largest value told so far, and where."""
        if not self._known:
            return None
        place = max(self._known, key=lambda place: self._known[place])
        return self._known[place], self._values(place)

    def ask(self, elsewhere: Mapping[str, Any]) -> list[Point]:
        """New points that meet the constraints; none when the share is used up or the space exhausted.

        `elsewhere` are the values of axes at the best point of any policy.
        """
        if self._all is not None:  # nothing to choose
            points = [Point(self._part, values) for values in islice(self._all, _BATCH)]
            self._asked = [(self._place(point.values), self._trial(self._place(point.values))) for point in points]
            return points
        while len(self._asked) < min(self._batch, self._left):
            found = self._like(elsewhere)
            if found is None and len(self._known) >= self._startup:
                found = next(self._turn)()
            found = found or self._sampled()
            if found is None:
                self._left = len(self._asked)
                break
            self._asked.append(found)
        self._left -= len(self._asked)
        return [Point(self._part, self._values(place)) for place, _ in self._asked]

    def tell(self, values: Sequence[float]) -> None:
        """What came of the points that were asked for last."""
        for (place, trial), value in zip(self._asked, values, strict=True):
            self._study.tell(trial, value)
            self._known[place] = value
        self._asked.clear()

    def _sampled(self) -> tuple[Place, optuna.Trial] | None:
        """What the estimator suggests; None when nearly all that it suggests is known or barred."""
        for _ in range(_MISSES):
            trial = self._study.ask()
            place = self._suggested(trial)
            if self._new(place):
                return place, trial
            if place in self._known:
                self._study.tell(trial, self._known[place])
            else:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return None

    def _beside_the_best(self) -> tuple[Place, optuna.Trial] | None:
        """A place one step along one axis from the best known; None when all of those are known or barred."""
        best = max(self._known, key=lambda place: self._known[place])
        beside = []
        for k, (values, numeric) in enumerate(self._axes.values()):
            steps = (best[k] - 1, best[k] + 1) if numeric else range(len(values))
            beside += [(*best[:k], step, *best[k + 1 :]) for step in steps if 0 <= step < len(values)]
        beside = list(filter(self._new, beside))
        return self._with_trial(self._rng.choice(beside)) if beside else None

    def _like(self, elsewhere: Mapping[str, Any]) -> tuple[Place, optuna.Trial] | None:
        """The best known place with the axes' values of `elsewhere`; None when that is known or barred."""
        if not self._known:
            return None
        best = max(self._known, key=lambda place: self._known[place])
        values = self._values(best)
        place = self._place({name: elsewhere.get(name, value) for name, value in values.items()})
        return self._with_trial(place) if self._new(place) else None

    def _with_trial(self, place: Place) -> tuple[Place, optuna.Trial]:
        return place, self._trial(place)

    def _trial(self, place: Place) -> optuna.Trial:
        """The estimator's trial at a place that it did not choose."""
        self._study.enqueue_trial(dict(zip(self._axes, place, strict=True)))
        trial = self._study.ask()
        self._suggested(trial)
        return trial

    def _suggested(self, trial: optuna.Trial) -> Place:
        return tuple(
            trial.suggest_int(name, 0, len(values) - 1)
            if numeric
            else trial.suggest_categorical(name, range(len(values)))
            for name, (values, numeric) in self._axes.items()
        )

    def _new(self, place: Place) -> bool:
        asked = any(place == other for other, _ in self._asked)
        return not asked and place not in self._known and self._part.holds(self._values(place))

    def _values(self, place: Place) -> dict[str, Any]:
        return {name: values[k] for (name, (values, _)), k in zip(self._axes.items(), place, strict=True)}

    def _place(self, given: Mapping[str, Any]) -> Place:
        return tuple(values.index(given[name]) for name, (values, _) in self._axes.items())


def _ordered(values: Sequence[Any]) -> tuple[Sequence[Any], bool]:
    """The values, sorted if they are numbers, and whether they are."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return (sorted(values), True) if numeric else (values, False)
