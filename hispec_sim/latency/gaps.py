"""The time between forwards of a decode loop, from the rows of a profile that was measured in one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hispec_sim.latency.interpolation import OpInterpolator
from hispec_sim.latency.ops import gap_layers_of


class Gaps:
    """The gap behind a forward, until the next one begins.

    It takes longer the more layers have just run, for these displace the loop from the processor's caches. Between the
    lengths that a profile has, and up to the whole network, which `choose` is behind, it is linear in the logarithm of
    the layers. A profile without `host_L` and `choose_L` has one gap for all.
    """

    def __init__(self, ops: Mapping[str, OpInterpolator], n_layers: int) -> None:
        self._host, self._choose, self._n_layers = ops.get("host"), ops.get("choose"), n_layers
        self._silent, self._read = (
            {n: op for name, op in ops.items() if (n := gap_layers_of(name, read=read)) is not None}
            for read in (False, True)
        )

    def ms(self, *, layers: int, batch: int, rows: float, in_row: int | None) -> float:
        """Milliseconds behind a forward of `batch` sequences through so many layers, which reads out `rows` rows of
        each; `in_row` as `NetworkCost.forward_ms`."""
        host_ms = 0.0 if self._host is None else float(self._host.at(batch, 1.0, 1.0))
        if rows and self._choose is not None:
            one_ms = float(self._choose.at(batch, 1.0, 1.0))
            more_ms = float(self._choose.at(batch, max(1.0, rows), 1.0)) - one_ms
            behind_ms = self._behind_drafts(batch, in_row or 1) | {self._n_layers: one_ms}
            return host_ms + more_ms + _between(behind_ms, layers)
        if self._silent and not rows:
            return _between({length: float(op.at(batch, 1.0, 1.0)) for length, op in self._silent.items()}, layers)
        return host_ms

    def _behind_drafts(self, batch: int, in_row: int) -> dict[int, float]:
        """What reading out adds by the number of layers, at the nearest place in the row that the profile has."""
        return {
            length: float(op.at(batch, float(np.clip(in_row, *op.table.query_tokens[[0, -1]])), 1.0))
            for length, op in self._read.items()
        }


def _between(ms: Mapping[int, float], layers: int) -> float:
    lengths = sorted(ms)
    return float(np.interp(math.log(max(1, layers)), np.log(lengths), [ms[length] for length in lengths]))
