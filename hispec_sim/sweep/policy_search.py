"""Search within one policy: steps along one axis from the best point, and Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import mean
from typing import Any

import optuna

from hispec_sim.sweep.part import Part
from hispec_sim.sweep.space import Point

_BATCH = 8  # points that a policy asks for before it learns from them; not by workers, so that the search is the same
_ROUNDS = 12  # of learning that a policy has at least, if need be with smaller batches
_CLIMB = 10  # points before the estimator has any idea; so many steps lead further than as many guesses
_MISSES = 1_000  # suggestions in a row that are known or barred: the policy's space is exhausted, or nearly

Place = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Learned:
    """What all policies have found about axes, of use to each that has the axis.

    `best`: by axis, its value at the best point of all policies that have it. `promise`: by axis and value, the best
    that was found with it, from a policy's worst (0) to its best (1), the mean over policies.
    """

    best: Mapping[str, Any]
    promise: Mapping[tuple[str, Any], float]


def learned(searches: Iterable[PolicySearch]) -> Learned:
    """What these have found so far."""
    best: dict[str, Any] = {}
    promises: dict[tuple[str, Any], list[float]] = {}
    for one in sorted((one for one in searches if one.begun), key=lambda one: one.best[0]):
        best |= one.best[1]
        for value, promise in one.promise().items():
            promises.setdefault(value, []).append(promise)
    return Learned(best, {value: mean(found) for value, found in promises.items()})


class PolicySearch:
    """The search within `part`, over places: an index into the (sorted) values of each axis.

    `base` is how many points it may ask for whatever comes of them, `fair` how many it may expect.
    """

    def __init__(self, part: Part, base: int, fair: int, seed: int) -> None:
        self.part, self.base, self.asked, self.exhausted = part, base, 0, False
        self._axes = {axis.name: _ordered(axis.values) for axis in part.axes}
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

    def promise(self) -> Mapping[tuple[str, Any], float]:
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
        values = self.best[1] if self.begun else {name: _middle(*axis) for name, axis in self._axes.items()}
        return self._place({name: known.best.get(name, value) for name, value in values.items()})

    def _step(self, known: Learned) -> tuple[Place, optuna.Trial] | None:
        """The most promising step along one axis from the best place, to a value untried before all; None when all are
        known or barred."""
        best = self._best_place()
        steps: list[tuple[float, float, Place]] = []
        for k, (name, (values, numeric)) in enumerate(self._axes.items()):
            for index in (best[k] - 1, best[k] + 1) if numeric else range(len(values)):
                place = (*best[:k], index, *best[k + 1 :])
                if 0 <= index < len(values) and self._new(place):
                    steps.append((known.promise.get((name, values[index]), 1.0), self._rng.random(), place))
        place = max(steps)[-1] if steps else None
        return None if place is None else (place, self._trial(place))

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
        asked = any(place == other for other, _ in self._waiting)
        return not asked and place not in self._known and self.part.holds(self._values(place))

    def _best_place(self) -> Place:
        return max(self._known, key=lambda place: self._known[place])

    def _values(self, place: Place) -> dict[str, Any]:
        return {name: values[k] for (name, (values, _)), k in zip(self._axes.items(), place, strict=True)}

    def _place(self, given: Mapping[str, Any]) -> Place:
        return tuple(values.index(given[name]) for name, (values, _) in self._axes.items())


def _ordered(values: Sequence[Any]) -> tuple[Sequence[Any], bool]:
    """The values, sorted if they are numbers, and whether they are."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return (sorted(values), True) if numeric else (values, False)


def _middle(values: Sequence[Any], numeric: bool) -> Any:
    """Where to begin: half-way, or what the file names first."""
    return values[(len(values) - 1) // 2 if numeric else 0]
