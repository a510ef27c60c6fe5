"""A stand-in for CUDA graphs where there is no GPU: it keeps the work and does it again on what the static tensors hold
by then, which is what a graph's replay does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hispec_sim.models.cache import CachedNetwork
from hispec_sim.models.graphs import Graphs, Recorded, Work


class Replaying:
    """Records work by doing it, and replays it into the tensor that the first time filled."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, work: Work) -> Recorded:
        self.captured += 1
        output = work()

        def replay() -> None:
            self.replayed += 1
            again = work()
            if output is not None:
                assert again is not None
                output.copy_(again)

        return Recorded(replay, output)


def give_graphs(patch: pytest.MonkeyPatch, capture: Replaying, most: int) -> list[Graphs]:
    """Let all caches made from now on become such graphs, at most so many each; those made so far are returned."""
    made: list[Graphs] = []
    opened = CachedNetwork.__init__

    def init(self: CachedNetwork, *arguments: Any, **named: Any) -> None:
        opened(self, *arguments, **named)
        self._graphs = Graphs(capture, torch.device("cpu"), most)
        made.append(self._graphs)

    patch.setattr(CachedNetwork, "__init__", init)
    return made
