"""An axis as a search goes along it, and what policies that share axes tell one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hispec_sim.sweep.axes import Axis


@dataclass(frozen=True, slots=True)
class SearchAxis:
    """An axis with its values in the order of their numbers, if they are such."""

    name: str
    values: Sequence[Any]
    numeric: bool

    @property
    def middle(self) -> Any:
        """Where to begin: half-way, or what the file names first."""
        return self.values[(len(self.values) - 1) // 2 if self.numeric else 0]

    def around(self, index: int, tried: Iterable[int]) -> list[int]:
        """Where to step to: of numbers, half-way to the nearest that was tried (or past the last) on either side."""
        if not self.numeric:
            return list(range(len(self.values)))
        below, above = _nearest(index, tried)
        below, above = -1 if below is None else below, len(self.values) if above is None else above
        steps = (min(index - 1, (below + index) // 2), max(index + 1, (above + index) // 2))
        return [step for step in steps if 0 <= step < len(self.values)]


@dataclass(frozen=True, slots=True)
class Learned:
    """What all policies have found about axes, of use to each that has the axis.

    `best`: by axis, its value at the best point of all policies that have it. `promises`: by axis and value, the best
    that was found with it, from a policy's worst (0) to its best (1), the mean over policies.
    """

    best: Mapping[str, Any]
    promises: Mapping[tuple[str, Any], float]

    def promise(self, axis: SearchAxis, index: int) -> float:
        """Of an axis's value. An untried number's lies between those tried around it; beyond all, it is the most."""
        value = axis.values[index]
        if (axis.name, value) in self.promises or not axis.numeric:
            return self.promises.get((axis.name, value), 1.0)
        tried = {k: self.promises[key] for k, v in enumerate(axis.values) if (key := (axis.name, v)) in self.promises}
        below, above = _nearest(index, tried)
        if below is None or above is None:
            return 1.0
        return tried[below] + (tried[above] - tried[below]) * (index - below) / (above - below)


def search_axis(axis: Axis) -> SearchAxis:
    """The axis in its order."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in axis.values)
    return SearchAxis(axis.name, sorted(axis.values) if numeric else axis.values, numeric)


def _nearest(index: int, tried: Iterable[int]) -> tuple[int | None, int | None]:
    """The nearest on either side."""
    others = list(tried)
    return max((k for k in others if k < index), default=None), min((k for k in others if k > index), default=None)
