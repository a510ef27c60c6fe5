"""A network whose forwards are timed as a decode loop runs them once it has run them often: where forwards become CUDA
graphs, by replays."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.graphs import CAPTURED_WHEN_MET
from hispec_sim.models.llama import Llama
from hispec_sim.models.places import Form

MOST_RUNS = 2 * CAPTURED_WHEN_MET
"""Of one piece of work before it is timed: captured in the third, a form is replayed in the fourth; of a decode, forms
may come up late."""


class TimedNetwork(CachedNetwork):
    """Holds the graphs of all forms: a decode loop has a few, which come back at once, but what is measured has
    hundreds, in random order, which would drive each other out before they are captured."""

    def __init__(
        self,
        network: Llama,
        *,
        slots: int,
        max_tokens: int,
        exits: Sequence[int],
        shortlists: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(network, slots=slots, max_tokens=max_tokens, exits=exits, shortlists=shortlists)
        self._settled: set[Hashable] = set()
        if self._graphs is not None:
            self._graphs.most = None

    @property
    def captures(self) -> bool:
        """Whether forwards become graphs: on CUDA, unless that is turned off."""
        return self._graphs is not None

    @property
    def replays(self) -> bool:
        """Whether graphs are held. Forwards of many tokens run eagerly, and so do all if capturing fails."""
        return self._graphs is not None and len(self._graphs) > 0

    def settle(self, what: Hashable, run: Callable[[], object]) -> None:
        """Run, untimed, what is about to be timed, until its forwards do nothing but replay graphs. Once for each
        `what`, and only where forwards become graphs: behind its own like a forward finds in a device's caches what it
        finds there in no decode."""
        if self._graphs is None or what in self._settled:
            return
        self._settled.add(what)
        for _ in range(MOST_RUNS):
            before = self._graphs.unheld
            run()
            if self._graphs.unheld == before:
                return

    def settle_forward(self, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> None:
        """The same for a forward (`forward`'s arguments)."""
        if self.captures:
            form = Form.of(pieces, self.slots)
            self.settle((first_layer, last_layer, form), lambda: self.forward(first_layer, last_layer, pieces))

    def launch_singly(self) -> None:
        """From now on do the same work without graphs: what a replay runs belongs to no operator of torch."""
        if self._graphs is not None:
            self._graphs.drop_all()
