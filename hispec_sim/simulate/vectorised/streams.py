"""Random numbers of many streams in one array: the same numbers in the same order as the SimPy engine draws."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.sampler import Uniforms


class Streams:
    """Streams by key. The numbers of stream i stand in `values` from `i * width` on."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._uniforms: list[Uniforms] = []
        self._rows: NDArray[np.float64] = np.zeros((0, 0))

    @property
    def values(self) -> NDArray[np.float64]:
        """All streams, one behind the other."""
        return self._rows.reshape(-1)

    @property
    def width(self) -> int:
        """How many numbers of each stream there are."""
        return int(self._rows.shape[1])

    def known(self, key: Hashable) -> int | None:
        """The number of a stream that has been added."""
        return self._numbers.get(key)

    def add(self, key: Hashable, uniforms: Uniforms) -> int:
        """Another stream, before any is extended; returns its number."""
        self._numbers[key] = len(self._uniforms)
        self._uniforms.append(uniforms)
        return self._numbers[key]

    def extend(self, width: int) -> None:
        """Make every stream at least so long."""
        while self.width < width:
            more = np.stack([uniforms.block() for uniforms in self._uniforms])
            self._rows = np.concatenate((self._rows.reshape(len(more), -1), more), axis=1)
