"""CUDA graphs: the work of a forward, recorded once and replayed with other integers.

Launching a layer's kernels one by one takes the host longer than a GPU needs to run them for a few tokens. All forwards
of one `Form` do the same work on tensors of the same shapes (`places.py`), so a form that comes back is captured: its
integers lie in a tensor that stays where it is, and a replay launches everything at once. Contexts are rounded up, so
that a growing text is a new form only now and then. Forwards of many tokens, such as a prompt's, keep a GPU busy
anyway and run eagerly.
"""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hispec_sim.models.places import Form

BUCKET = 128
"""Contexts are rounded up to a multiple: attention reads at most so many positions in vain."""
MOST_QUERIES = 64
"""Forwards of more query tokens run eagerly."""
MOST_GRAPHS = 64
"""So many graphs are held; the one that has not been replayed for longest goes first."""
CAPTURED_WHEN_MET = 3
"""A form is captured when it is met for the third time since it was last dropped: capturing takes as long as many
eager forwards."""
WARM_UPS = 2
"""Forwards before a capture, in which libraries choose their kernels and allocate what they keep."""

Work = Callable[[], Tensor | None]
"""A forward over tensors that stay where they are. Doing it twice changes nothing."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A captured forward: what runs it again, and the tensor in which its result then lies."""

    replay: Callable[[], None]
    output: Tensor | None


class Capture(Protocol):
    """Records a forward. Raises RuntimeError if it cannot be recorded."""

    def __call__(self, work: Work) -> Recorded: ...


class CudaCapture:
    """Captures on one CUDA device. All graphs share one pool of memory: only one runs at a time, and what it leaves in
    the pool is not used after the next has begun."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Recorded:
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            output = work()
        return Recorded(graph.replay, output)


class Graphs:
    """The captured forwards of one network over one set of caches. `most`: how many are held, all of them if None;
    `unheld`: runs so far of what was not held and may be captured, those that captured it included."""

    def __init__(self, capture: Capture, device: torch.device, most: int | None = MOST_GRAPHS) -> None:
        self._capture: Capture | None = capture
        self._device = device
        self.most = most
        self.unheld = 0
        self._met: Counter[Hashable] = Counter()
        self._held: OrderedDict[Hashable, tuple[Tensor, Recorded]] = OrderedDict()

    def __len__(self) -> int:
        """How many graphs are held."""
        return len(self._held)

    def run(self, key: Hashable, integers: Sequence[int], work: Callable[[Tensor], Tensor | None]) -> Tensor | None:
        """Do `work` on the integers, by a replay where this key has been captured. A key names work of one kind on so
        many integers; the result is the caller's own.
        """
        given = torch.tensor(integers, device=self._device)
        if key not in self._held and not self._record(key, given, work):
            return work(given)
        buffer, recorded = self._held[key]
        self._held.move_to_end(key)
        buffer.copy_(given)
        recorded.replay()
        return None if recorded.output is None else recorded.output.clone()

    def drop_all(self) -> None:
        """From now on run everything eagerly: the same work, launched piece by piece."""
        self._capture = None
        self._held.clear()

    def _record(self, key: Hashable, given: Tensor, work: Callable[[Tensor], Tensor | None]) -> bool:
        """Whether the key is captured now: it has been met often enough, and it could be."""
        if self._capture is None:
            return False
        self.unheld += 1
        self._met[key] += 1
        if self._met[key] < CAPTURED_WHEN_MET:
            return False
        if len(self._held) == self.most:
            dropped, _ = self._held.popitem(last=False)
            del self._met[dropped]
        try:
            self._held[key] = given, self._capture(lambda: work(given))
        except RuntimeError as error:
            self._capture = None
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(
                f"CUDA graphs are off: a forward could not be captured ({reason}); decoding goes on without new ones",
                stacklevel=2,
            )
            return False
        return True


def rounded(form: Form, most_context: int) -> Form:
    """The form with its context rounded up, to at most `most_context`; positions beyond a sequence's own are masked."""
    return form._replace(context=min(-(-form.context // BUCKET) * BUCKET, most_context))
