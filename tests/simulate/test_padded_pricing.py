"""A ragged batch on a device that pads costs what its longest sequence would cost in all places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.step_graph import Node, StepGraph


@dataclass
class Telling:
    """Milliseconds that say what was asked: 1000 tokens + context."""

    pads: bool

    def forward_ms(self, *, tokens: int, context: NDArray[np.int64], **rest: object) -> NDArray[np.float64]:
        return np.asarray(1000 * tokens + context, np.float64)


@dataclass
class Request:
    node: Node
    context: int


def test_the_longest_counts_for_all() -> None:
    """One sequence drafts with one token in sight of 20, the other catches up two tokens in sight of 50."""
    graph = StepGraph(Cascade((Level("D", 2), Level("T", 8, 2)), Bonus.ALWAYS))
    first = graph.start(50)
    second = graph.follow(first, 0).target  # the second draft
    assert second is not None
    verify = graph.follow(second, 0).target
    assert verify is not None
    behind = graph.follow(verify, 2).target  # the draft has seen neither its own last token nor the bonus
    assert behind is not None
    one, two = Request(first, 20), Request(behind, 50)
    assert one.node.span == two.node.span
    plain, padded = (Pricer({"D": Telling(pads)}, range(1, 100)) for pads in (False, True))
    tokens = [request.node.forward.tokens for request in (one, two)]
    assert tokens == [1, 2]
    sight = [request.context + request.node.reach for request in (one, two)]
    assert plain.price_ms([one, two]) == 1000 * sum(tokens) + sum(sight) // 2
    assert padded.price_ms([one, two]) == 1000 * 2 * max(tokens) + max(sight)
    assert padded.price_ms([two]) == plain.price_ms([two]) == 1000 * tokens[1] + sight[1]
