"""Forwards in a row: what the state of a request tells of them, and what the pricer passes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from simulated import HISPEC, cascade, simulate
from test_cascade_properties import cascades

from hispec_sim.acceptance.models import Independent
from hispec_sim.cascade import Cascade
from hispec_sim.execute.record import DeviceForward
from hispec_sim.profiler.decoded import in_row
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.step_graph import Kind, Node, StepGraph


@dataclass
class Spy:
    """Remembers what it was asked."""

    asked: list[dict[str, object]] = field(default_factory=list)
    pads: bool = False

    def forward_ms(self, *, context: NDArray[np.int64], **asked: object) -> NDArray[np.float64]:
        self.asked.append(asked)
        return np.ones(len(context))


@dataclass
class Request:
    node: Node
    context: int = 10


def test_drafts_make_rows() -> None:
    graph = StepGraph(cascade(*HISPEC))
    first = graph.start(20)
    second = graph.follow(first, 0).target
    verify = graph.follow(second, 0).target
    assert (first.in_row, second.in_row, verify.in_row) == (1, 2, 1)  # of its own layers the first
    behind = graph.follow(verify, 0).target
    assert (behind.kind, behind.in_row) == (Kind.DRAFT, 2)  # not the target ran before it
    assert StepGraph(cascade(("T", 4, 0))).start(20).in_row is None


@given(cascades(), st.randoms(use_true_random=False))
def test_it_is_what_the_forwards_say(any_cascade: Cascade, luck: Random) -> None:
    """The state of a request tells the same as all its forwards do, and the least of levels that verify."""
    assume(len({level.network for level in any_cascade.levels[:-1]}) == 1)
    graph = StepGraph(any_cascade)
    target, node = any_cascade.levels[-1], graph.start(30)
    before: list[DeviceForward] = []
    for _ in range(100):
        if node is None:
            break
        f = node.forward
        forward = DeviceForward(f.network, f.first_layer, f.last_layer, 1, f.tokens, f.logits, None, 1.0)
        counted = in_row(before, forward, target)
        drafts = any_cascade.levels[0].exit_layer == f.last_layer
        assert node.in_row == counted if drafts or counted is None else 1 <= (node.in_row or 0) <= counted
        before.append(forward)
        node = graph.follow(node, luck.randint(0, node.run) if node.kind is Kind.VERIFY else len(node.after) - 1).target


def test_the_pricer_passes_on_what_it_knows() -> None:
    graph, spy = StepGraph(cascade(*HISPEC)), Spy()
    pricer = Pricer({"T": spy}, range(1, 100))
    first = graph.start(20)
    second = graph.follow(first, 0).target
    for batch in ([first], [second], [second, second], [first, second]):
        pricer.price_ms([Request(node) for node in batch])
    assert [asked["in_row"] for asked in spy.asked] == [1, 2, 2, 1]


def test_a_simulation_asks_for_drafts_in_rows() -> None:
    spy = Spy()
    simulate(cascade(*HISPEC), Independent((0.9, 0.9)), [(5, 60)], seed=1, cost=spy)
    drafts = [asked for asked in spy.asked if asked["last_layer"] == 4 and asked["logits"]]
    assert {asked["in_row"] for asked in drafts} == {1, 2, 3}
