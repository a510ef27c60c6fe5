"""The latency profile: measured milliseconds of a network's parts on a device, with where they came from.

Data and validation only; `profile_file.py` reads and writes it, `interpolation.py` asks it between the points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hispec_sim.errors import InputError
from hispec_sim.latency.completing import completed
from hispec_sim.latency.ops import LAYER_OPS, is_token_op, layers_of, shortlist_of
from hispec_sim.latency.profile_row import ProfileRow
from hispec_sim.networks import NetworkSpec
from hispec_sim.spread import Spread


@dataclass(frozen=True, slots=True)
class Provenance:
    """How the numbers of a profile came about. `command`, run as written, makes the file again, or measures it again.
    `machine` is what was measured on and with, and how well it went; empty for numbers from elsewhere. `decode_error`
    is the root mean square of the relative errors of whole decodes in a self-check, where there was one;
    `mean_over_median` the mean of many forwards' times, each over the time that the profile has for it, where it was
    measured. Raises InputError if one is not finite, the first below 0, or the second not above."""

    dtype: str
    software: Mapping[str, str]
    date: str
    command: str
    method: str
    machine: Mapping[str, str] = field(default_factory=dict)
    decode_error: float | None = None
    mean_over_median: float | None = None

    def __post_init__(self) -> None:
        mean = self.mean_over_median
        if mean is not None and not (math.isfinite(mean) and mean > 0):
            raise InputError(f"mean_over_median: {mean} must be a finite number above 0")
        if self.decode_error is not None and not (math.isfinite(self.decode_error) and self.decode_error >= 0):
            raise InputError(f"decode_error: {self.decode_error} must be a finite number of at least 0")


@dataclass(frozen=True, slots=True)
class OpTable:
    """One op at one tensor parallelism as a full grid.

    `batch`, `query_tokens`, `context`: the axes, float64, increasing; a token op has one batch (1), and all but grid
    ops have one context (1, a placeholder). `ms` and `measured` have shape (batch, query_tokens, context). `repeated`
    tells that every measured time is the median of repeated runs.
    """

    op: str
    tensor_parallel: int
    batch: NDArray[np.float64]
    query_tokens: NDArray[np.float64]
    context: NDArray[np.float64]
    ms: NDArray[np.float64]
    measured: NDArray[np.bool_]
    repeated: bool = False

    @property
    def is_token_op(self) -> bool:
        """Whether only the token count matters."""
        return is_token_op(self.op)


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """All rows for one network on one device. Raises InputError when they do not make a usable profile.

    Every tensor parallelism needs `lm_head`, `embedding` and either `layer` (a whole layer) or all of
    `layer_linear`, `layer_elementwise` and `attention`; above 1 and without `layer`, an all-reduce too.
    """

    device: str
    network: NetworkSpec
    provenance: Provenance
    rows: tuple[ProfileRow, ...]
    _tables: dict[tuple[str, int], OpTable] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.rows:
            raise InputError("the profile has no rows; it needs at least lm_head, embedding and a layer")
        by_table: dict[tuple[str, int], list[ProfileRow]] = {}
        for row in completed(self.rows):
            by_table.setdefault((row.op, row.tensor_parallel), []).append(row)
        for op, _ in by_table:
            if (shortlist_of(op) or 0) >= self.network.vocab_size:
                raise InputError(
                    f"op {op}: a shortlist is shorter than the vocabulary, which has {self.network.vocab_size} tokens"
                )
            if layers_of(op) > self.network.n_layers:
                raise InputError(f"op {op}: the network has {self.network.n_layers} layers")
        for tensor_parallel in {row.tensor_parallel for row in self.rows}:
            _check_required(tensor_parallel, {op for op, tp in by_table if tp == tensor_parallel})
        object.__setattr__(self, "_tables", {key: _grid(rows) for key, rows in by_table.items()})

    @property
    def name(self) -> str:
        """`device/network`, for messages and figures."""
        return f"{self.device}/{self.network.name}"

    @property
    def tensor_parallels(self) -> tuple[int, ...]:
        """The tensor parallelisms on offer, increasing."""
        return tuple(sorted({tensor_parallel for _, tensor_parallel in self._tables}))

    @property
    def tables(self) -> tuple[OpTable, ...]:
        """Every table, ordered by op and tensor parallelism."""
        return tuple(self._tables[key] for key in sorted(self._tables))

    def table(self, op: str, tensor_parallel: int) -> OpTable | None:
        """The grid of one op, or None where the profile does not have it."""
        return self._tables.get((op, tensor_parallel))

    def spread(self) -> Spread | None:
        """That of a forward; quantiles are the medians over the measured rows of layers that carry them, for what takes
        little time varies more and matters less; over all other rows where those do not; None where no row does."""
        spread = {
            row.point: (row.p10_ms / row.ms, row.p90_ms / row.ms)
            for row in self.rows
            if row.origin == "measured" and row.p10_ms is not None and row.p90_ms is not None
        }
        of_layers = [ratios for (op, *_), ratios in spread.items() if op in LAYER_OPS]
        if not spread:
            return None
        low, high = np.median(np.array(of_layers or list(spread.values())), axis=0)
        return Spread(float(low), float(high), self.provenance.mean_over_median)


def _check_required(tensor_parallel: int, ops: set[str]) -> None:
    required = {"lm_head", "embedding"}
    if "layer" not in ops:
        required |= {"layer_linear", "layer_elementwise", "attention"}
    missing = sorted(required - ops)
    if missing:
        cure = "" if "layer" in ops else " (a single `layer` op may stand for the parts of a layer)"
        raise InputError(f"tensor_parallel {tensor_parallel}: required op missing: {', '.join(missing)}{cure}")
    if tensor_parallel > 1 and not ops & {"layer", "all_reduce_custom", "all_reduce_nccl"}:
        raise InputError(
            f"tensor_parallel {tensor_parallel}: required op missing: all_reduce_custom or all_reduce_nccl"
        )


def _grid(rows: list[ProfileRow]) -> OpTable:
    """Rows of one op and tensor parallelism as a grid; InputError names a duplicate or a missing point."""
    op, tensor_parallel = rows[0].op, rows[0].tensor_parallel
    points = np.array([(row.batch, row.query_tokens, row.context or 1) for row in rows], dtype=np.float64)
    axes, places = [], []
    for column in range(3):
        axis, place = np.unique(points[:, column], return_inverse=True)
        axes.append(axis)
        places.append(place)
    shape = tuple(len(axis) for axis in axes)
    count = np.zeros(shape, dtype=np.int64)
    np.add.at(count, tuple(places), 1)
    if (count != 1).any():
        at = np.argwhere(count != 1)[0]
        where = ", ".join(
            f"{name} {axis[index]:.0f}"
            for name, axis, index in zip(("batch", "query_tokens", "context"), axes, at, strict=True)
        )
        what = "duplicate point" if count[tuple(at)] > 1 else "incomplete grid: no row"
        raise InputError(
            f"op {op}, tensor_parallel {tensor_parallel}: {what} at {where}; "
            "each combination of the axis values that occur must be there exactly once"
        )
    ms = np.empty(shape)
    ms[tuple(places)] = [row.ms for row in rows]
    measured = np.zeros(shape, dtype=np.bool_)
    measured[tuple(places)] = [row.origin == "measured" for row in rows]
    repeated = all(row.repeats is not None for row in rows if row.origin == "measured")
    return OpTable(op, tensor_parallel, axes[0], axes[1], axes[2], ms, measured, repeated and bool(measured.any()))
