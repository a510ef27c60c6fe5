"""Outcomes read off an agreement trace: exact on the target's path, drawn off it.

While every tentative token is the target's own, the trace knows what each level predicts, with all correlation
between levels and neighbouring positions. Behind a token that the target would not have written nothing was
recorded; what happens there cannot change the committed text, but it costs time, so it is drawn from the agreement
that was measured off the path.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from hispec_sim.acceptance.sampler import Uniforms
from hispec_sim.acceptance.trace import AgreementTrace, sequence_labels
from hispec_sim.cascade import Cascade
from hispec_sim.errors import InputError
from hispec_sim.step_graph import Node


class ReplaySource:
    """A trace read for one cascade; makes a sampler per request. Raises InputError if an exit is not recorded."""

    def __init__(self, trace: AgreementTrace, cascade: Cascade) -> None:
        self.trace = trace
        self.columns = trace.columns(cascade)
        pairs = [trace.off_path[below, level] for below, level in pairwise(self.columns)]
        # The target never judges a token behind one that it rejects.
        self.off_path = [1.0, *(float(p) for p in pairs[:-1]), 1.0]
        for k, agreement in enumerate(self.off_path):
            if np.isnan(agreement):
                below, level = cascade.levels[k - 1], cascade.levels[k]
                raise InputError(
                    f"the trace holds no off-path agreement of {below.network}@{below.exit_layer} with "
                    f"{level.network}@{level.exit_layer}; record that pair"
                )

    def sampler(self, sequence: int, rng: np.random.Generator) -> ReplaySampler:
        """The outcomes of the request that decodes the given recorded sequence."""
        return ReplaySampler(self, sequence_labels(self.trace, self.columns, sequence), rng)

    def output_tokens(self, sequence: int) -> int:
        """Length of a recorded sequence."""
        s = sequence % self.trace.n_sequences
        return int(self.trace.starts[s + 1] - self.trace.starts[s])


class ReplaySampler:
    """Replays one sequence. It keeps, per tentative token, the label it has, or None off the target's path."""

    def __init__(self, source: ReplaySource, labels: list[list[int]], rng: np.random.Generator) -> None:
        self._labels = labels
        self._off_path = source.off_path
        self._target = len(source.columns) - 1
        self._draw = Uniforms(rng).stream().__next__
        self._committed = 0
        self._held: list[int | None] = []
        self._wrong_from: int | None = None  # the first tentative token that is not the target's

    def draft(self, node: Node) -> None:
        self._propose(0)

    def verify(self, node: Node) -> int:
        level, first = node.level, node.verified_from
        matched = 0
        while matched < node.run and self._agrees(level, first + matched):
            matched += 1
        del self._held[first + matched :]
        if self._wrong_from is not None and self._wrong_from >= len(self._held):
            self._wrong_from = None
        own_token = matched < node.run or node.bonus
        if level == self._target:
            self._committed += matched + own_token
            self._held.clear()
            self._wrong_from = None
        elif own_token:
            self._propose(level)
        return matched

    def _propose(self, level: int) -> None:
        if self._wrong_from is not None:
            self._held.append(None)
            return
        label = self._labels[self._committed + len(self._held)][level]
        if label:
            self._wrong_from = len(self._held)
        self._held.append(label)

    def _agrees(self, level: int, position: int) -> bool:
        label = self._held[position]
        if label is None:
            return self._draw() < self._off_path[level]
        return self._labels[self._committed + position][level] == label
