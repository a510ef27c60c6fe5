"""Search within one policy: steps along one axis from the best point, and Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from statistics import mean
from typing import Any

import optuna

from hispec_sim.sweep.part import Part
from hispec_sim.sweep.search_axis import Learned, search_axis
from hispec_sim.sweep.space import Point

_BATCH = 8  # points that a policy asks for before it learns from them; not by workers, so that the search is the same
_ROUNDS = 12  # of learning that a policy has at least, if need be with smaller batches
_CLIMB = 10  # points before the estimator has any idea; so many steps lead further than as many guesses
_MISSES = 1_000  # suggestions in a row that are known or barred: the policy's space is exhausted, or nearly

Place = tuple[int, ...]


def learned(searches: Iterable[PolicySearch]) -> Learned:
    """What these have found so far."""
    best: dict[str, Any] = {}
    promises: dict[tuple[str, Any], list[float]] = {}
    for one in sorted((one for one in searches if one.begun), key=lambda one: one.best[0]):
        best |= one.best[1]
        for value, promise in one.promises().items():
            promises.setdefault(value, []).append(promise)
    return Learned(best, {value: mean(found) for value, found in promises.items()})


class PolicySearch:
    """The search within `part`, over places: an index into the (sorted) values of each axis.

    `base` is how many points it may ask for whatever comes of them, `fair` how many it may expect.
    """

    def __init__(self, part: Part, base: int, fair: int, seed: int) -> None:
        self.part, self.base, self.asked, self.exhausted = part, base, 0, False
        self._axes = [search_axis(axis) for axis in part.axes]
        self._known: dict[Place, float] = {}
        self._waiting: list[tuple[Place, optuna.Trial]] = []
        self._batch = min(_BATCH, max(1, fair // _ROUNDS))
        self._startup = max(_CLIMB, fair // 5)
        self._rng = random.Random(f"{seed} {part.policy}")
        self._ways = cycle((self._step, self._sampled, self._step))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed, multivariate=True, n_startup_trials=self._startup, constant_liar=True
            )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._all = part.combinations() if base >= part.size else None

    @property
    def begun(self) -> bool:
        """Whether any value has been told."""
        return bool(self._known)

    @property
    def best(self) -> tuple[float, Mapping[str, Any]]:
        """The largest value told so far, and where."""
        place = self._best_place()
        return self._known[place], self._values(place)

    def promises(self) -> Mapping[tuple[str, Any], float]:
        """By axis and value: the best found with it, from the worst point (0) to the best (1)."""
        low, high = min(self._known.values()), max(self._known.values())
        found: dict[tuple[str, Any], float] = {}
        for place, value in self._known.items():
            for axis in self._values(place).items():
                found[axis] = max(found.get(axis, 0.0), (value - low) / (high - low) if high > low else 1.0)
        return found

    def advised(self, known: Learned) -> bool:
        """Whether others have found something to try here."""
        return self._new(self._like(known))

    def ask(self, most: int, known: Learned) -> list[Point]:
        """New points that meet the constraints; none when the space is exhausted, and one to begin with."""
        if self._all is not None:  # nothing to choose
            places = [self._place(values) for values in islice(self._all, min(_BATCH, most))]
            self._waiting = [(place, self._trial(place)) for place in places]
        else:
            for _ in range(min(self._batch, most) if self.begun else min(1, most)):
                found = self._next(known)
                if found is None:
                    break
                self._waiting.append(found)
        self.asked += len(self._waiting)
        self.exhausted = most > 0 and not self._waiting
        return [Point(self.part, self._values(place)) for place, _ in self._waiting]

    def tell(self, values: Sequence[float]) -> None:
        """What came of the points that were asked for last."""
        for (place, trial), value in zip(self._waiting, values, strict=True):
            self._study.tell(trial, value)
            self._known[place] = value
        self._waiting.clear()

    def _next(self, known: Learned) -> tuple[Place, optuna.Trial] | None:
        like = self._like(known)
        if self._new(like):
            return like, self._trial(like)
        if not self.begun or _CLIMB <= len(self._known) < self._startup:
            return self._sampled(known)
        way = self._step if len(self._known) < _CLIMB else next(self._ways)
        return way(known) or self._sampled(known)

    def _like(self, known: Learned) -> Place:
        """The best place, or the middle of the space, with what is best elsewhere on axes that others have too."""
        values = self.best[1] if self.begun else {axis.name: axis.middle for axis in self._axes}
        return self._place({name: known.best.get(name, value) for name, value in values.items()})

    def _step(self, known: Learned) -> tuple[Place, optuna.Trial] | None:
        """The most promising step along one axis from the best place beside which anything is new."""
        tried = [set(values) for values in zip(*self._known, *(place for place, _ in self._waiting), strict=True)]
        for best in sorted(self._known, key=lambda place: -self._known[place]):
            steps: list[tuple[float, float, Place]] = []
            for k, axis in enumerate(self._axes):
                for index in axis.around(best[k], tried[k]):
                    place = (*best[:k], index, *best[k + 1 :])
                    if self._new(place):
                        steps.append((known.promise(axis, index), self._rng.random(), place))
            if steps:
                place = max(steps)[-1]
                return place, self._trial(place)
        return None

    def _sampled(self, known: Learned) -> tuple[Place, optuna.Trial] | None:
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

    def _trial(self, place: Place) -> optuna.Trial:
        """The estimator's trial at a place that it did not choose."""
        self._study.enqueue_trial({axis.name: index for axis, index in zip(self._axes, place, strict=True)})
        trial = self._study.ask()
        self._suggested(trial)
        return trial

    def _suggested(self, trial: optuna.Trial) -> Place:
        return tuple(
            trial.suggest_int(axis.name, 0, len(axis.values) - 1)
            if axis.numeric
            else trial.suggest_categorical(axis.name, range(len(axis.values)))
            for axis in self._axes
        )

    def _new(self, place: Place) -> bool:
        asked = any(place == other for other, _ in self._waiting)
        return not asked and place not in self._known and self.part.holds(self._values(place))

    def _best_place(self) -> Place:
        return max(self._known, key=lambda place: self._known[place])

    def _values(self, place: Place) -> dict[str, Any]:
        return {axis.name: axis.values[k] for axis, k in zip(self._axes, place, strict=True)}

    def _place(self, given: Mapping[str, Any]) -> Place:
        return tuple(axis.values.index(given[axis.name]) for axis in self._axes)
