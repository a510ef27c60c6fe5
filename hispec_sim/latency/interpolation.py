"""Milliseconds between the points of a profile, and how wrong that is (leave-one-out).

Every axis and the time itself are taken in logarithms and interpolated linearly between neighbouring grid
points: times of kernels are close to products of powers, and a kernel switch stays where both of its sides
are in the grid (128 and 129 tokens). Against noise in the data, time never falls as an axis grows: each grid
value is replaced by the largest at or below it on all axes. Where values are medians of repeated runs they stand as
they are: a product of five tokens may really take longer than one of six.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hispec_sim.errors import InputError
from hispec_sim.latency.profile import LatencyProfile, OpTable

_AXES = ("batch", "query_tokens", "context")
_CACHE_LIMIT = 50_000
_ROUNDING = 1e-9  # asked values may be quotients, a rounding error away from the edge of the grid


@dataclass(slots=True)
class OpInterpolator:
    """One op of a profile at any point. `label` begins every message.

    Outside the grid it raises InputError, or, with `allow_extrapolation`, takes the edge below the grid and
    goes on with the last slope (linear in logarithms) above it, leaving a note in `notes` each time.
    """

    table: OpTable
    label: str
    allow_extrapolation: bool = False
    notes: set[str] = field(default_factory=set)
    _log_axes: tuple[NDArray[np.float64], ...] = field(init=False, repr=False)
    _log_ms: NDArray[np.float64] = field(init=False, repr=False)
    _lines: dict[tuple[float, float], NDArray[np.float64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._log_axes = tuple(np.log(getattr(self.table, axis)) for axis in _AXES)
        self._log_ms = np.log(self.table.ms if self.table.repeated else _never_falling(self.table.ms))
        self._lines = {}

    def at(self, batch: float, query_tokens: float, context: ArrayLike) -> NDArray[np.float64]:
        """Milliseconds for `query_tokens` in each of `batch` sequences, attending to `context` tokens.

        `context` is a scalar or an array; the result has its shape.
        """
        log_ms = self._line(batch, query_tokens)
        values = np.asarray(context, dtype=np.float64)
        if values.size and not self._inside(2, float(values.min()), float(values.max())):
            return np.exp(_extended(np.log(values), self._log_axes[2], log_ms))
        return np.exp(np.interp(np.log(values), self._log_axes[2], log_ms))

    def at_tokens(self, tokens: float) -> float:
        """Milliseconds of a token op for `tokens` tokens in all."""
        return float(np.exp(self._line(1, tokens)[0]))

    def _line(self, batch: float, query_tokens: float) -> NDArray[np.float64]:
        """Log milliseconds over the context axis; kept, for a simulation asks the same few again and again."""
        line = self._lines.get((batch, query_tokens))
        if line is None:
            grid = self._collapse(0, batch, self._log_ms)
            line = self._collapse(1, query_tokens, grid)
            if len(self._lines) >= _CACHE_LIMIT:
                self._lines.clear()
            self._lines[batch, query_tokens] = line
        return line

    def _collapse(self, axis: int, value: float, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """`grid` interpolated along its first dimension, which is `axis`, at `value`."""
        self._inside(axis, value, value)
        if len(grid) == 1:
            return np.asarray(grid[0])
        place, weight = _bracket(np.log(value), self._log_axes[axis])
        return np.asarray(grid[place] * (1 - weight) + grid[place + 1] * weight)

    def _inside(self, axis: int, low: float, high: float) -> bool:
        values = getattr(self.table, _AXES[axis])
        first, last = float(values[0]), float(values[-1])
        if low >= first * (1 - _ROUNDING) and high <= last * (1 + _ROUNDING):
            return True
        asked = low if low < first else high
        note = (
            f"{self.label}, op {self.table.op}: {_AXES[axis]} {asked:g} is outside the profiled range "
            f"{first:g} to {last:g}"
        )
        if not self.allow_extrapolation or low <= 0:
            raise InputError(
                f"{note}. Ask within the range, profile a wider one, or set allow_extrapolation to go on with "
                "the last slope (results are then flagged)."
            )
        # One note a side, not one for each value: a simulation may ask for thousands.
        side = "below" if low < first else "above"
        self.notes.add(f"{self.label}, op {self.table.op}: {_AXES[axis]} {side} {first:g} to {last:g}")
        return False


def _never_falling(ms: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in range(ms.ndim):
        ms = np.maximum.accumulate(ms, axis=axis)
    return ms


def _bracket(x: np.float64, axis: NDArray[np.float64]) -> tuple[int, float]:
    """The interval of `axis` for `x` and the weight of its upper end: 0 below the axis, above 1 beyond it."""
    place = int(np.clip(np.searchsorted(axis, x, side="right") - 1, 0, len(axis) - 2))
    return place, max(0.0, float((x - axis[place]) / (axis[place + 1] - axis[place])))


def _extended(x: NDArray[np.float64], axis: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """np.interp, which holds the edges, plus the last slope above the axis."""
    held = np.interp(x, axis, y)
    if len(axis) == 1:
        return held
    slope = (y[-1] - y[-2]) / (axis[-1] - axis[-2])
    return np.asarray(held + slope * np.maximum(0.0, x - axis[-1]))


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """Relative error of the interpolation at `n` left-out points: |interpolated / actual - 1|."""

    median: float
    p95: float
    n: int


def leave_one_out(profile: LatencyProfile) -> dict[str, LeaveOneOut]:
    """Per op, how well its neighbours predict each inner point of the grid.

    For every axis in turn the whole plane of a point is left out and bridged from the planes beside it, so
    the spacing is twice that of the profile: an upper estimate of the error between the grid's own points.
    Where values are medians of repeated runs, only points that were measured are left out, and bridged from measured
    ones: derived points lie on lines between others, so they are always met, and make their neighbours easy to meet.
    Ops with no inner point are absent.
    """
    errors: dict[str, list[NDArray[np.float64]]] = {}
    for table in profile.tables:
        for axis, name in enumerate(_AXES):
            values = getattr(table, name)
            if len(values) > 2:
                errors_along = _errors_of_measured if table.repeated else _errors_along
                errors.setdefault(table.op, []).append(errors_along(axis, np.log(values), table))
    pooled = {op: np.concatenate(parts) for op, parts in errors.items()}
    return {
        op: LeaveOneOut(float(np.median(error)), float(np.quantile(error, 0.95)), len(error))
        for op, error in pooled.items()
        if len(error)
    }


def _errors_along(axis: int, x: NDArray[np.float64], table: OpTable) -> NDArray[np.float64]:
    """Errors at all inner points when their plane across `axis` is left out, raveled."""
    planes = table.ms
    for other in range(planes.ndim):
        if other != axis:
            planes = np.maximum.accumulate(planes, axis=other)
    planes = np.moveaxis(planes, axis, 0)
    actual = np.moveaxis(table.ms, axis, 0)[1:-1]
    below = np.maximum.accumulate(planes, axis=0)[:-2]
    above = np.maximum(below, planes[2:])  # the running maximum there, had the plane never been measured
    weight = ((x[1:-1] - x[:-2]) / (x[2:] - x[:-2]))[:, None, None]
    predicted = np.exp(np.log(below) * (1 - weight) + np.log(above) * weight)
    return np.abs(predicted / actual - 1).ravel()


def _errors_of_measured(axis: int, x: NDArray[np.float64], table: OpTable) -> NDArray[np.float64]:
    """Errors at the measured points of every line along `axis` that have measured ones on both sides."""
    lines_ms, lines_measured = (np.moveaxis(each, axis, -1).reshape(-1, len(x)) for each in (table.ms, table.measured))
    errors = []
    for ms, measured in zip(lines_ms, lines_measured, strict=True):
        at, log_ms = x[measured], np.log(ms[measured])
        weight = (at[1:-1] - at[:-2]) / (at[2:] - at[:-2])
        predicted = log_ms[:-2] * (1 - weight) + log_ms[2:] * weight
        errors.append(np.abs(np.exp(predicted - log_ms[1:-1]) - 1))
    return np.concatenate(errors)
