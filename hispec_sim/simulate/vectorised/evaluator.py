"""The vectorised evaluator: what the SimPy engine would say of many configurations, without its events."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.errors import InputError
from hispec_sim.simulate.configuration import Configuration
from hispec_sim.simulate.metrics import RunMetrics
from hispec_sim.simulate.vectorised.drawn import DrawnFates, depends_on_place
from hispec_sim.simulate.vectorised.replayed import RecordedText, ReplayedFates
from hispec_sim.simulate.vectorised.sums import Prices, summed
from hispec_sim.simulate.vectorised.tables import StepTables
from hispec_sim.simulate.vectorised.walk import Fates, walk

_LANES = 4096  # requests that are walked together: many make NumPy's overhead small, few stay in the core's cache


def supports(configuration: Configuration) -> str | None:
    """Why a configuration needs the SimPy engine; None when `evaluate` can serve it."""
    if min(configuration.concurrency, configuration.requests) > 1:
        return (
            f"concurrency {configuration.concurrency}: requests wait for one another, and the vectorised evaluator "
            "serves one at a time"
        )
    if configuration.jitter is not None and any(configuration.jitter.values()):
        return "jitter: the vectorised evaluator prices forwards at their median"
    if isinstance(configuration.outcomes, ReplaySource) and configuration.outcomes.trace.sampling is not None:
        return "a trace of sampled text: its labels are drawn request by request, which is what takes the time"
    return None


def evaluate(configurations: Sequence[Configuration]) -> list[RunMetrics]:
    """The figures of each configuration, in order: those of `metrics.measure` over the SimPy engine's log.

    The same requests meet the same random numbers in the same order, so forwards and tokens are equal, and times
    differ by rounding. They do not depend on which configurations are evaluated together; the more are, the less each
    takes. Raises InputError for a configuration that is not supported, or outside a profile's range.
    """
    groups: dict[Any, list[int]] = {}
    for i, configuration in enumerate(configurations):
        reason = supports(configuration)
        if reason is not None:
            raise InputError(f"configuration {i} needs the SimPy engine: {reason}")
        outcomes = configuration.outcomes
        recorded = id(outcomes.trace) if isinstance(outcomes, ReplaySource) else None
        groups.setdefault((len(configuration.cascade.levels), recorded), []).append(i)
    prices, found = Prices(), dict[int, RunMetrics]()
    for members in groups.values():
        outcomes = configurations[members[0]].outcomes
        text = RecordedText(outcomes.trace) if isinstance(outcomes, ReplaySource) else None
        members.sort(key=lambda i: repr(_periods(configurations[i])))  # neighbours share graphs; stable
        for chunk in _chunks(members, configurations):
            metrics = _together([configurations[i] for i in chunk], prices, text)
            found.update(zip(chunk, metrics, strict=True))
    return [found[i] for i in range(len(configurations))]


def _periods(configuration: Configuration) -> tuple[Any, ...]:
    cascade = configuration.cascade
    return (cascade.bonus, cascade.exits, [level.verify_period for level in cascade.levels])


def _chunks(members: Sequence[int], configurations: Sequence[Configuration]) -> list[list[int]]:
    chunks: list[list[int]] = []
    lanes = _LANES
    for i in members:
        if lanes >= _LANES:
            chunks.append([])
            lanes = 0
        chunks[-1].append(i)
        lanes += configurations[i].requests
    return chunks


def _together(configurations: Sequence[Configuration], prices: Prices, text: RecordedText | None) -> list[RunMetrics]:
    """Configurations of as many levels, on one trace or none."""
    tables = StepTables()
    shapes = [
        tables.shape(c.cascade, not isinstance(c.outcomes, ReplaySource) and depends_on_place(c.outcomes))
        for c in configurations
    ]
    owner = np.repeat(np.arange(len(configurations)), [c.requests for c in configurations])
    luck = [(c.seed, c.repetition, request) for c in configurations for request in range(c.requests)]
    room = np.array([c.output_of(request) for c in configurations for request in range(c.requests)])
    fates: Fates | None = None
    if shapes[0].n_levels > 1:
        models = [c.outcomes for c in configurations if not isinstance(c.outcomes, ReplaySource)]
        sources = [c.outcomes for c in configurations if isinstance(c.outcomes, ReplaySource)]
        if text is None:
            fates = DrawnFates(tables, shapes, models, owner, luck)
        else:
            most = max(shape.graph.cascade.max_tokens_per_round for shape in shapes)
            fates = ReplayedFates(tables, text, sources, owner, luck, most)
    step = np.array([tables.start(shapes[o], r) for o, r in zip(owner.tolist(), room.tolist(), strict=True)])
    ample_room = np.array([shape.graph.ample_room for shape in shapes])[owner]
    log = walk(tables, fates, step, room, ample_room)
    ends = list(accumulate((c.requests for c in configurations), initial=0))
    return [
        summed(configuration, log.moves(first, end), tables, prices)
        for configuration, first, end in zip(configurations, ends[:-1], ends[1:], strict=True)
    ]
