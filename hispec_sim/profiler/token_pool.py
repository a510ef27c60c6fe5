"""Token ids for forwards whose text does not matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POOL = 65536


class TokenPool:
    """Random token ids, drawn before anything is timed: drawing between forwards displaces what a decode loop leaves in
    the processor's caches, and a draft behind it takes some 5 % longer."""

    def __init__(self, rng: np.random.Generator, vocab_size: int) -> None:
        self._ids: list[int] = rng.integers(0, vocab_size, POOL).tolist()
        self._at = 0

    def take(self, sequences: int, tokens: int) -> list[Sequence[int]]:
        """The next ids for each of so many sequences; from the start again where the pool ends."""
        if self._at + sequences * tokens > POOL:
            self._at = 0
        first = self._at
        self._at += sequences * tokens
        return [self._ids[at : at + tokens] for at in range(first, self._at, tokens)]
