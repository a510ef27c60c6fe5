"""The forwards that a cascade needs for recorded texts, without a clock: what it would cost to decode them, times any
latency.

Where nothing shares the device, decoding time is a sum over forwards. Counted once, they can be priced by whatever
latency applies, and thousands of cascades can be compared in the time that one takes to run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.trace import AgreementTrace
from hispec_sim.cascade import Cascade
from hispec_sim.step_graph import Kind, Node, StepGraph


class Work(NamedTuple):
    """What decides the time of one sequence's forward at a given context."""

    network: str
    first_layer: int
    last_layer: int
    tokens: int
    logits: int


def count_forwards(
    cascade: Cascade, trace: AgreementTrace, sequences: Iterable[int], seed: int, prompt_tokens: int | None = None
) -> Counter[Work]:
    """The forwards that write the trace's sequences one after another, to their recorded lengths.

    `prompt_tokens` adds each prompt's prefill, which also predicts the first token; without, every cache holds the
    prompt but for its last token. Off the target's path outcomes are drawn, the same for the same seed. Raises
    InputError if the trace lacks one of the cascade's exits, which name their networks as it does.
    """
    networks = {network.name: network for network in trace.networks}
    source, graph = ReplaySource(trace, cascade, networks), StepGraph(cascade)
    met: Counter[Node] = Counter()
    for sequence in sequences:
        sampler = source.sampler(sequence, np.random.default_rng([seed, sequence]))
        room = source.output_tokens(sequence)
        node: Node | None = graph.start(room, prompt_tokens)
        while node is not None:
            met[node] += 1
            matched = 0
            if node.kind is Kind.DRAFT:
                sampler.draft(node)
            elif node.forward.logits:  # a verification, or the target's own first token after the prompt
                matched = sampler.verify(node)
            move = node.after[matched] or graph.follow(node, matched)
            node, room = move.target, room - move.committed
            if node is not None and move.committed and room < graph.ample_room:
                node = graph.with_room(node, room)
    counts: Counter[Work] = Counter()
    for met_node, times in met.items():
        forward = met_node.forward
        work = Work(forward.network, forward.first_layer, forward.last_layer, forward.tokens, forward.logits)
        counts[work] += times
    return counts
