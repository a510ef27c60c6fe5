"""How lately the layers of a forward have run: what of them is still in the processor's caches."""

from __future__ import annotations

from typing import NamedTuple


class Recency(NamedTuple):
    """Of a forward from layer 0 to an exit above the target: it is the `nth` such forward since the target's, counted
    by the tokens that are held, and since the one before, `distance` layers of the network have run (as many as its own
    if there was none)."""

    nth: int
    distance: int
