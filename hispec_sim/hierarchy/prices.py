"""What the forwards of a network with two exits cost: as shares of the target's, or from a latency profile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from hispec_sim.errors import InputError
from hispec_sim.latency.cost import NetworkCost


class Prices(Protocol):
    """Prices forwards of one sequence between the depths 0, draft, middle and target, numbered 0 to 3."""

    def ms(self, first: int, last: int, tokens: int, *, read_out: bool = True, in_row: int | None = None) -> float:
        """Milliseconds (or any unit) of `tokens` query tokens from depth `first` to `last`, with logits for all of them
        or none; `in_row`: which of a row it is (`step_graph.Node`)."""
        ...


@dataclass(frozen=True, slots=True)
class Ratios:
    """Costs in units of the target's forward of one token.

    `draft` and `middle` are what a forward of one token to these exits costs, of which `read_out` is reading it out;
    the rest is in proportion to layers. A further query token adds the share `verify_slope` of the forward's cost.
    """

    draft: float
    middle: float
    verify_slope: float = 0.0
    read_out: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.read_out <= self.draft <= self.middle <= 1:  # NaN fails too
            raise InputError(
                "cost ratios must rise from read_out over draft and middle to at most 1, got "
                f"{self.read_out!r}, {self.draft!r}, {self.middle!r}"
            )
        if not (math.isfinite(self.verify_slope) and self.verify_slope >= 0):
            raise InputError(f"verify_slope must be a finite number of at least 0, got {self.verify_slope!r}")

    def ms(self, first: int, last: int, tokens: int, *, read_out: bool = True, in_row: int | None = None) -> float:
        """See `Prices`."""
        depths = (self.read_out, self.draft, self.middle, 1.0)
        cost = depths[last] - depths[first] + (self.read_out if read_out else 0.0)
        return cost * (1 + self.verify_slope * (tokens - 1))

    def __str__(self) -> str:
        return f"cost of draft {self.draft:.2f}, of middle {self.middle:.2f}"


@dataclass(frozen=True, slots=True)
class ProfiledPrices:
    """Prices of a network from its latency profile, at batch 1 and one `context` (tokens attended to)."""

    cost: NetworkCost
    draft_exit: int
    middle_exit: int
    context: int

    def __post_init__(self) -> None:
        if not 0 < self.draft_exit < self.middle_exit < self.cost.profile.network.n_layers:
            raise InputError(
                f"exits must rise and stay below the network's {self.cost.profile.network.n_layers} layers, got "
                f"{self.draft_exit} and {self.middle_exit}"
            )

    def ms(self, first: int, last: int, tokens: int, *, read_out: bool = True, in_row: int | None = None) -> float:
        """See `Prices`."""
        depths = (0, self.draft_exit, self.middle_exit, self.cost.profile.network.n_layers)
        return float(
            self.cost.forward_ms(
                first_layer=depths[first],
                last_layer=depths[last],
                batch=1,
                tokens=tokens,
                logits=tokens if read_out else 0,
                context=self.context,
                in_row=in_row,
            )
        )

    def __str__(self) -> str:
        return f"exits {self.draft_exit} and {self.middle_exit} of {self.cost.profile.network.n_layers}"


def as_ratios(prices: Prices, tokens: int = 8) -> Ratios:
    """What `prices` look like as `Ratios`: the slope is that of the target's own verification of `tokens` tokens."""
    target = prices.ms(0, 3, 1)
    draft, middle = prices.ms(0, 1, 1) / target, prices.ms(0, 2, 1) / target
    read_out = draft - prices.ms(0, 1, 1, read_out=False) / target
    slope = (prices.ms(0, 3, tokens) / target - 1) / (tokens - 1)
    return Ratios(draft, middle, max(0.0, slope), read_out)
