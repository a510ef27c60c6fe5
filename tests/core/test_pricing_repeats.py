"""What the pricer tells a price list beyond sums: drafts behind drafts, and the longest sequence of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from simulated import HISPEC, cascade, simulate

from hispec_sim.acceptance.models import Independent
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.step_graph import Node, StepGraph


@dataclass
class Spy:
    """Remembers what it was asked."""

    asked: list[dict[str, object]] = field(default_factory=list)

    def forward_ms(self, *, context: NDArray[np.int64], **asked: object) -> NDArray[np.float64]:
        self.asked.append(asked)
        return np.ones(len(context))


@dataclass
class Request:
    node: Node
    context: int = 10


def test_a_draft_is_a_repeat_if_a_draft_ran_before_it() -> None:
    graph = StepGraph(cascade(*HISPEC))
    first = graph.start(20)
    second = graph.follow(first, 0).target
    verify = graph.follow(second, 0).target
    assert (first.repeat, second.repeat, verify.repeat) == (False, True, False)
    assert not StepGraph(cascade(("T", 4, 0))).start(20).repeat


def test_the_pricer_passes_on_what_it_knows() -> None:
    graph, spy = StepGraph(cascade(*HISPEC)), Spy()
    pricer = Pricer({"T": spy}, range(1, 100))
    first = graph.start(20)
    second = graph.follow(first, 0).target
    for batch in ([first], [second], [second, second], [first, second]):
        pricer.price_ms([Request(node) for node in batch])
    assert [asked["repeat"] for asked in spy.asked] == [False, True, True, False]
    assert [asked["longest"] for asked in spy.asked] == [1, 1, 1, 1]
    ragged = graph.follow(graph.follow(second, 0).target, 0).target  # behind a correction two tokens may be pushed
    pricer.price_ms([Request(first), Request(ragged)])
    assert spy.asked[-1]["longest"] == max(first.forward.tokens, ragged.forward.tokens)
    assert spy.asked[-1]["tokens"] == first.forward.tokens + ragged.forward.tokens


def test_a_simulation_asks_for_both_kinds_of_drafts() -> None:
    spy = Spy()
    simulate(cascade(*HISPEC), Independent((0.9, 0.9)), [(5, 60)], seed=1, cost=spy)
    drafts = [asked for asked in spy.asked if asked["last_layer"] == 4 and asked["logits"]]
    assert {asked["repeat"] for asked in drafts} == {False, True}
