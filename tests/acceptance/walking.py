"""A cascade's steps over a sampler, as the simulator sees them."""

from __future__ import annotations

from hispec_sim.acceptance.sampler import Sampler
from hispec_sim.cascade import Cascade
from hispec_sim.step_graph import Kind, Node, StepGraph


def verifications(cascade: Cascade, sampler: Sampler, room: int) -> list[tuple[int, int, int]]:
    """(level, run, matched) of each verification until so many tokens are committed."""
    graph = StepGraph(cascade)
    node: Node | None = graph.start(room)
    steps = []
    while node is not None:
        matched = 0
        if node.kind is Kind.VERIFY:
            matched = sampler.verify(node)
            steps.append((node.level, node.run, matched))
        elif node.kind is Kind.DRAFT:
            sampler.draft(node)
        move = graph.follow(node, matched)
        node = move.target
        if move.committed and node is not None:
            room -= move.committed
            node = graph.with_room(node, room)
    return steps
