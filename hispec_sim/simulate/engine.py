"""The discrete-event simulation of one device: requests ask, the scheduler composes batches, time passes.

`Engine.run` is the whole event loop: take a batch, let its forward's milliseconds pass on SimPy's clock, then tell
each request in the batch what came of it. Control logic is the cascade's (through its step graph), outcomes are the
sampler's, milliseconds are the pricer's: the engine only brings them together and keeps a log.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import simpy

from hispec_sim.acceptance.sampler import Sampler
from hispec_sim.cascade import Cascade
from hispec_sim.scheduler import Grouping, Scheduler
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.step_graph import Kind, Move, Node, StepGraph


@dataclass(slots=True)
class Request:
    """One sequence being decoded."""

    index: int
    prompt_tokens: int
    output_tokens: int
    sampler: Sampler
    node: Node
    context: int  # tokens of prompt and committed text
    room: int
    start_ms: float = 0.0
    end_ms: float = 0.0


@dataclass(slots=True)
class RunLog:
    """Everything that happened: one entry per device forward, and one per (forward, request in its batch).

    The second kind is flat: forward i has `batch_size[i]` consecutive members. In a closed loop the device never
    idles, so forwards follow one another without a gap.
    """

    cascade: Cascade
    duration_ms: list[float] = field(default_factory=list)
    batch_size: list[int] = field(default_factory=list)
    move: list[Move] = field(default_factory=list)
    request: list[Request] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def extend(self, other: RunLog) -> None:
        """What another run of the same cascade did, after this one."""
        self.duration_ms += other.duration_ms
        self.batch_size += other.batch_size
        self.move += other.move
        self.request += other.request
        self.requests += other.requests


class Engine:
    """Decodes requests with one cascade on one device, `concurrency` at a time (a closed loop).

    `jitter` gives, per network, endless factors by which forwards differ from their median time.
    """

    def __init__(
        self,
        graph: StepGraph,
        pricer: Pricer,
        *,
        new_sampler: Callable[[int], Sampler],
        jitter: Mapping[str, Iterator[float]] | None = None,
        grouping: Grouping = Grouping.WAIT_TO_GROUP,
    ) -> None:
        self._graph = graph
        self._pricer = pricer
        self._new_sampler = new_sampler
        self._jitter = jitter
        self._scheduler: Scheduler[Request] = Scheduler(grouping)

    def run(self, lengths: Sequence[tuple[int, int]], concurrency: int) -> RunLog:
        """Simulate requests of the given (prompt_tokens, output_tokens) until all have finished."""
        log = RunLog(self._graph.cascade)
        arrivals = self._arrivals(lengths, log)
        env = simpy.Environment()
        for request in islice(arrivals, concurrency):
            self._scheduler.ask(request.node.span, request)
        env.process(self._device(env, arrivals, log))
        env.run()
        return log

    def _arrivals(self, lengths: Sequence[tuple[int, int]], log: RunLog) -> Iterator[Request]:
        for index, (prompt_tokens, output_tokens) in enumerate(lengths):
            node = self._graph.start(output_tokens)
            sampler = self._new_sampler(index)
            log.requests.append(
                Request(index, prompt_tokens, output_tokens, sampler, node, prompt_tokens, output_tokens)
            )
            yield log.requests[-1]

    def _device(
        self, env: simpy.Environment, arrivals: Iterator[Request], log: RunLog
    ) -> Generator[simpy.Event, None, None]:
        graph, ask, next_batch = self._graph, self._scheduler.ask, self._scheduler.next_batch
        price_ms, jitter, timeout = self._pricer.price_ms, self._jitter, env.timeout
        log_duration, log_size = log.duration_ms.append, log.batch_size.append
        log_move, log_request = log.move.append, log.request.append
        draft, verify = Kind.DRAFT, Kind.VERIFY

        while batch := next_batch():
            duration_ms = price_ms(batch)
            if jitter is not None:
                duration_ms *= next(jitter[batch[0].node.forward.network])
            log_duration(duration_ms)
            log_size(len(batch))
            yield timeout(duration_ms)
            for member in batch:
                request = member
                node = request.node
                kind, matched = node.kind, 0
                if kind is verify:
                    matched = request.sampler.verify(node)
                elif kind is draft:
                    request.sampler.draft(node)
                move = node.after[matched] or graph.follow(node, matched)
                log_move(move)
                log_request(request)
                following = move.target
                if move.committed:
                    request.context += move.committed
                    request.room -= move.committed
                    if following is None:
                        request.end_ms = env.now
                        admitted = next(arrivals, None)
                        if admitted is None:
                            continue
                        request, following = admitted, admitted.node
                        request.start_ms = env.now
                    elif request.room < graph.ample_room:
                        following = graph.with_room(following, request.room)
                assert following is not None
                request.node = following
                ask(following.span, request)
