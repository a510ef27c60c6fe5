"""The machine's pace: how much slower than usual it was during each scene, as the scenes around it tell.

Cores of a shared machine lend their speed to others, for tenths of a second up to minutes. Scenes that follow one
another meet the same pace, whatever they time; so what a scene took beyond the usual times of its forwards is foretold
by what its neighbours took beyond theirs, and a time is taken at the usual pace by dividing that out. Where neighbours
foretell nothing, as on a machine that is quiet, times stay as they are. What is usual is the mean pace: a long run
meets fast moments and slow ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hispec_sim.profiler.forwards import Point, Sample, What

TIMED = (What.SPAN, What.REPEAT)
"""Whole forwards; other samples are differences or gaps, too small to tell a pace."""
SPELLS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0)
"""How long a pace may last; neighbours count less by exp(-distance / this)."""
NEIGHBOURS = 20
"""Scenes on either side that are asked."""
SWEEPS = 8
"""Usual times and paces are found in turn; they stand still after a few."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scene:
    """What one episode timed (ms), and when it was half over, in seconds."""

    at_s: float
    samples: tuple[Sample, ...]


def steadied(scenes: Sequence[Scene]) -> dict[Point, list[float]]:
    """The samples of all scenes by point, in order, each divided by its scene's pace."""
    found: dict[Point, list[float]] = {}
    for scene, slower in zip(scenes, np.exp(paces(scenes)).tolist(), strict=True):
        for point, ms in scene.samples:
            found.setdefault(point, []).append(ms / slower)
    return found


def paces(scenes: Sequence[Scene]) -> Floats:
    """The logarithm of each scene's pace (0: usual), of the spell that explains most. `scenes`: in order. A scene
    without samples has the pace that those around it tell."""
    timed = _Timed(scenes)
    if not timed.any:
        return np.zeros(len(scenes))
    found = [timed.paces(spell_s) for spell_s in SPELLS_S]
    return timed.around_usual(min(found, key=timed.unexplained))


class _Timed:
    """The whole forwards of the scenes, as arrays over samples (point, scene, time) and over scenes."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        numbers: dict[Point, int] = {}
        rows = [
            (numbers.setdefault(point, len(numbers)), scene, ms)
            for scene, each in enumerate(scenes)
            for point, ms in each.samples
            if point.what in TIMED and ms > 0
        ]
        self.any = bool(rows)
        self._at_s = np.array([scene.at_s for scene in scenes])
        self._point = np.array([row[0] for row in rows], dtype=np.intp)
        self._scene = np.array([row[1] for row in rows], dtype=np.intp)
        self._ms = np.array([row[2] for row in rows], dtype=np.float64)
        self._log = np.log(self._ms)
        # A long scene tells more, but its length is not evidence without end.
        self._weight = self._per_scene(self._ms)
        if self.any:
            self._weight = np.minimum(self._weight, 3 * np.median(self._weight[self._weight > 0]))

    def paces(self, spell_s: float) -> Floats:
        """The logarithms of the paces if they last so long."""
        paces = np.zeros(len(self._at_s))
        for _ in range(SWEEPS):
            deviation = self._deviation(paces)
            around = self._around(deviation, spell_s)
            around -= np.median(around)
            # How much of a scene's deviation its neighbours foretell: the slope of the one over the other.
            told = float(self._weight @ around**2)
            slope = float(self._weight @ (around * deviation)) / told if told > 0 else 0.0
            paces = around * min(1.0, max(0.0, slope))
        return paces

    def around_usual(self, paces: Floats) -> Floats:
        """The same, the usual pace being the one at which all scenes together take as long as they took."""
        return paces + np.log(float(self._weight @ np.exp(-paces)) / float(self._weight.sum()))

    def unexplained(self, paces: Floats) -> float:
        """The weighted mean of what is left of the scenes' deviations."""
        return float(self._weight @ np.abs(self._deviation(paces) - paces))

    def _deviation(self, paces: Floats) -> Floats:
        """By scene, the mean logarithm of times over the usual ones of their points; 0 where no forward was timed."""
        usual = _medians(self._point, self._log - paces[self._scene])
        over = self._per_scene(self._ms * (self._log - usual[self._point]))
        total = self._per_scene(self._ms)
        return np.divide(over, total, out=np.zeros(len(paces)), where=total > 0)

    def _around(self, deviation: Floats, spell_s: float) -> Floats:
        """By scene, the mean deviation of its neighbours, without its own: the nearer, the more it counts."""
        total, weight = np.zeros(len(deviation)), np.zeros(len(deviation))
        for shift in range(1, min(NEIGHBOURS, len(deviation) - 1) + 1):
            near = np.exp(-np.abs(self._at_s[shift:] - self._at_s[:-shift]) / spell_s)
            for mine, other in ((slice(shift, None), slice(None, -shift)), (slice(None, -shift), slice(shift, None))):
                counts = near * self._weight[other]
                total[mine] += counts * deviation[other]
                weight[mine] += counts
        return np.divide(total, weight, out=np.zeros(len(deviation)), where=weight > 0)

    def _per_scene(self, values: Floats) -> Floats:
        return np.bincount(self._scene, values, len(self._at_s)).astype(np.float64)


def _medians(group: NDArray[np.intp], values: Floats) -> Floats:
    """The median of the values of each group 0, 1, ..., none of which is empty."""
    order = np.lexsort((values, group))
    counts = np.bincount(group)
    first = np.cumsum(counts) - counts
    ordered = values[order]
    return np.asarray((ordered[first + (counts - 1) // 2] + ordered[first + counts // 2]) / 2)
