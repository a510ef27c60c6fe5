"""How fast the machine was in the scenes of drafts of one exit, as the verifications in them tell.

A scene of drafts is long, and a profile has few of each kind: those of exit 4 may have met slow moments and those of
exit 6 fast ones, which the scenes around them do not tell well enough. But all of them have verifications by the
target, and what these take from one exit on and from another must fit together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from hispec_sim.profiler.forwards import Point, What

FEWEST = 6
"""Verifications of a batch and a number of query tokens, at different exits and contexts, from which on they tell."""


def at_one_pace(ms: Mapping[Point, float]) -> dict[Point, float]:
    """The milliseconds of verifications behind rows of drafts as they fit together, and those of the drafts at the pace
    that these tell of their scenes; nothing where there are too few."""
    alike: dict[tuple[int, int], list[Point]] = defaultdict(list)
    for point in ms:
        if point.what is What.VERIFY:
            alike[point.batch, point.query_tokens].append(point)
    fitting: dict[Point, float] = {}
    for points in alike.values():
        if len(points) >= FEWEST:
            fitting |= _fitting(points, ms)
    off: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for point, fitting_ms in fitting.items():
        off[point.batch, point.context, point.first_layer].append(np.log(ms[point] / fitting_ms))
    drafts = {point: (point.batch, point.context, point.last_layer) for point in ms if point.what is What.REPEAT}
    return fitting | {point: ms[point] / float(np.exp(np.mean(off[s]))) for point, s in drafts.items() if s in off}


def _fitting(points: Sequence[Point], ms: Mapping[Point, float]) -> dict[Point, float]:
    """A fixed time, and for each layer one that grows with the context: the least squares of what the points are off,
    relatively."""
    layers = np.array([point.last_layer - point.first_layer for point in points], dtype=np.float64)
    context = np.array([point.context for point in points], dtype=np.float64)
    found_ms = np.array([ms[point] for point in points])
    parts = np.stack([np.ones(len(points)), layers, layers * context], axis=1)
    fitted_ms = parts @ np.linalg.lstsq(parts / found_ms[:, None], np.ones(len(points)), rcond=None)[0]
    return dict(zip(points, fitted_ms.tolist(), strict=True))
