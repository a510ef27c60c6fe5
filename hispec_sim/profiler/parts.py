"""The parts that forwards are made of, from spans of several lengths.

A forward through n layers takes fixed + embedding (from the first layer on) + n x layer + LM head (where read out).
Spans of several lengths, all layers at once among them, are one linear system for these parts, solved by least squares
of relative errors, in which long spans count more. What is fixed and the embedding are small against noise, so they
are held to straight lines over tokens (but for whole prompts).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hispec_sim.profiler.forwards import Point

LEAST_MS = 1e-5
"""Parts too small to measure get this: a profile's times are above 0."""

Part = tuple[str, int, int, int]
"""op, batch, query tokens, context; 0 where the op does not depend on it."""


def _unknowns_of(point: Point) -> dict[Part, float]:
    """How often a span contains each unknown; ops with `_slope` are per token."""
    batch, tokens = point.batch, point.query_tokens
    found: dict[Part, float] = {
        ("layer", batch, tokens, point.context): point.last_layer - point.first_layer,
        ("forward", batch, tokens if is_prompt(point) else 0, 0): 1,
    }
    if not is_prompt(point):
        found["forward_slope", batch, 0, 0] = tokens
    if point.first_layer == 0:
        found["embedding", 1, 0, 0] = 1
        found["embedding_slope", 1, 0, 0] = batch * tokens
    if point.logits:
        found["lm_head", 1, batch * point.logits, 0] = 1
    return found


def is_prompt(point: Point) -> bool:
    return point.query_tokens == point.context


def solve(medians: Mapping[Point, float]) -> tuple[dict[Part, float], NDArray[np.float64]]:
    """Weighted least squares of relative errors; unknowns that come out below nothing are held there and the rest is
    solved again. Returns the parts of all points, and the relative error at each."""
    columns: dict[Part, int] = {}
    for point in medians:
        for unknown in _unknowns_of(point):
            columns.setdefault(unknown, len(columns))
    counts = np.zeros((len(medians), len(columns)))
    for row, point in enumerate(medians):
        for unknown, times in _unknowns_of(point).items():
            counts[row, columns[unknown]] = times
    relative = counts / np.array(list(medians.values()))[:, None]
    weight = _weights(medians)
    free, solution = np.ones(len(columns), dtype=bool), np.zeros(len(columns))
    while True:
        solution[free] = np.linalg.lstsq(weight[:, None] * relative[:, free], weight, rcond=None)[0]
        if (solution >= 0).all():
            break
        free &= solution >= 0
        solution[~free] = 0.0
    parts: dict[Part, float] = {}
    for point in medians:
        batch, tokens = point.batch, point.query_tokens
        found = {unknown: times * solution[columns[unknown]] for unknown, times in _unknowns_of(point).items()}
        layers = point.last_layer - point.first_layer
        for part, op in (
            (("layer", batch, tokens, point.context), "layer"),
            (("forward", batch, tokens, 0), "forward"),
            (("embedding", 1, batch * tokens, 0), "embedding"),
            (("lm_head", 1, batch * point.logits, 0), "lm_head"),
        ):
            mine = [ms for (name, *_), ms in found.items() if name.removesuffix("_slope") == op]
            if mine:
                parts[part] = max(LEAST_MS, float(sum(mine)) / (layers if op == "layer" else 1))
    return parts, np.abs(relative @ solution - 1)


def _weights(medians: Mapping[Point, float]) -> NDArray[np.float64]:
    """How much each span's relative error counts: what scatters from kernel to kernel averages out in long spans, as
    the square root of their time. All layers at once count the same for every shape."""
    longest: dict[tuple[int, int, int], float] = defaultdict(float)
    for p, ms in medians.items():
        shape = (p.batch, p.query_tokens, p.context)
        longest[shape] = max(longest[shape], ms)
    return np.sqrt([max(0.0, ms) / longest[p.batch, p.query_tokens, p.context] for p, ms in medians.items()])
