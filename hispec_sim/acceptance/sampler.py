"""Outcomes for one request: the fates of its tentative tokens, drawn from a model or read off a trace.

The sampler sees the same steps as an executor would and answers with how many tokens matched. It keeps one number
per tentative token: the token's fate (`models.py`). Nothing here knows time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.models import AcceptanceModel, fate_probabilities
from hispec_sim.step_graph import Node

_BLOCK = 4096


class Sampler(Protocol):
    """Answers the steps of one request."""

    def draft(self, node: Node) -> None:
        """Level 0 has proposed one more token."""
        ...

    def verify(self, node: Node) -> int:
        """A level has verified `node.run` tokens: how many of them matched."""
        ...


class Uniforms:
    """Numbers in [0, 1) from one generator, drawn in blocks.

    With `clustering` c > 0 each number repeats the one before with probability c: the distribution of every single
    number stays uniform while neighbours get autocorrelation c, so easy and hard tokens come in runs.
    """

    def __init__(self, rng: np.random.Generator, clustering: float = 0.0) -> None:
        self._rng = rng
        self._clustering = clustering
        self._last = rng.random()

    def stream(self) -> Iterator[float]:
        """An endless iterator that costs little per number."""
        return chain.from_iterable(iter(lambda: self.block().tolist(), None))

    def block(self) -> NDArray[np.float64]:
        """The next numbers, always as many."""
        block = self._rng.random(_BLOCK)
        return self._cluster(block) if self._clustering > 0 else block

    def _cluster(self, fresh: NDArray[np.float64]) -> NDArray[np.float64]:
        repeats = self._rng.random(_BLOCK) < self._clustering
        if repeats[0]:
            fresh[0] = self._last
        source = np.maximum.accumulate(np.where(repeats, 0, np.arange(_BLOCK)))
        block = fresh[source]
        self._last = float(block[-1])
        return block


def streams_of(model: AcceptanceModel, rng: np.random.Generator) -> tuple[Uniforms, Uniforms]:
    """What the fates of one request are drawn from: those of drafted tokens, and those of tokens verifiers add."""
    drafts, corrections = rng.spawn(2)
    return Uniforms(drafts, model.clustering), Uniforms(corrections)


class FateTable:
    """A model's fates as thresholds in [0, 1), by node: computed once and shared by all requests of a cascade.

    Each attribute is a pair: for tokens on the target's path, and for those behind a doomed token. A draw u has
    fate f when it lies in the f-th of the intervals that the thresholds bound.
    """

    def __init__(self, model: AcceptanceModel) -> None:
        self.model = model
        self.drafted: tuple[dict[Node, list[float]], ...] = ({}, {})
        self.own: tuple[dict[tuple[Node, int], list[float]], ...] = ({}, {})

    def add_drafted(self, node: Node, doomed: bool) -> list[float]:
        """Thresholds for the token that level 0 drafts at `node`."""
        thresholds = self.drafted[doomed][node] = self._thresholds(node, 0, corrected=False, on_path=not doomed)
        return thresholds

    def add_own(self, node: Node, matched: int, doomed: bool) -> list[float]:
        """Thresholds for the token that a verifier adds at `node` behind `matched` tokens."""
        thresholds = self._thresholds(node, matched, corrected=matched < node.run, on_path=not doomed)
        self.own[doomed][node, matched] = thresholds
        return thresholds

    def _thresholds(self, node: Node, matched: int, *, corrected: bool, on_path: bool) -> list[float]:
        return fate_thresholds(
            self.model, node.level, offsets_behind(node, matched), corrected=corrected, on_path=on_path
        )


def offsets_behind(node: Node, matched: int) -> tuple[int, ...]:
    """For each level, the place in the run it will verify of the token proposed at `node` behind `matched` tokens."""
    held = node.state.tentative
    position = held[node.level] + matched
    return tuple(max(position - accepted, 0) for accepted in held)


def fate_thresholds(
    model: AcceptanceModel, proposer: int, offsets: Sequence[int], *, corrected: bool, on_path: bool
) -> list[float]:
    """Upper ends of the fates' intervals in [0, 1), by fate; what lies above the last survives every level."""
    fates = fate_probabilities(model, proposer, offsets, corrected=corrected, on_path=on_path)
    return list(accumulate(fates[:-1]))


class ModelSampler:
    """Draws fates from an acceptance model.

    While some tentative token is doomed (a level above will reject it), what follows is off the target's path.
    """

    def __init__(self, table: FateTable, rng: np.random.Generator) -> None:
        drafts, corrections = streams_of(table.model, rng)
        self._table = table
        self._survivor = table.model.n_levels  # the fate of a token that every level accepts
        self._next_draft = drafts.stream().__next__
        self._next_correction = corrections.stream().__next__
        self._fates: list[int] = []
        self._doomed = False

    def draft(self, node: Node) -> None:
        doomed = self._doomed
        thresholds = self._table.drafted[doomed].get(node) or self._table.add_drafted(node, doomed)
        fate = bisect_right(thresholds, self._next_draft())
        self._fates.append(fate)
        if fate < self._survivor:
            self._doomed = True

    def verify(self, node: Node) -> int:
        run, fates, doomed = node.run, self._fates, self._doomed
        matched = run
        if doomed and node.level in fates:  # what this level has accepted before is not fated to fail at it
            matched = fates.index(node.level) - node.verified_from
        if node.level == self._survivor - 1:  # the target: what it keeps is committed
            fates.clear()
            self._doomed = False
        elif matched < run or node.bonus:
            del fates[node.verified_from + matched :]
            doomed = doomed and bool(fates) and min(fates) < self._survivor
            thresholds = self._table.own[doomed].get((node, matched)) or self._table.add_own(node, matched, doomed)
            fate = bisect_right(thresholds, self._next_correction())
            fates.append(fate)
            self._doomed = doomed or fate < self._survivor
        return matched
