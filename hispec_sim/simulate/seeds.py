"""Random streams by what they are for, so that configurations meet the same luck and adding one changes no other."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is drawn for."""

    JITTER = 0  # one stream per network
    OUTCOMES = 1  # one stream per request


def stream(seed: int, repetition: int, purpose: Purpose, index: int) -> np.random.Generator:
    """The generator of one network or request in one repetition."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(repetition, int(purpose), index)))
