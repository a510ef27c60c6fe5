"""From timed spans to the rows of a profile.

A forward takes a fixed time F, L for each of its layers, E if it begins at the embedding and H if it is read out. At
every point of the grid the spans of a pass, cut in two ways, give more equations than there are unknowns; they are
solved for the least relative error, none of the four below zero (Lawson and Hanson's condition, by leaving out the
most negative). F depends little on the context, E and H on the number of tokens only: theirs is the median over
the points that share it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from statistics import median
from typing import TypeVar

import numpy as np

from hispec_sim.latency.profile import ProfileRow, exit_head_op, layer_repeat_op
from hispec_sim.profiler.measure import Samples
from hispec_sim.profiler.passes import Shot

LEAST_MS = 1e-5
"""A profile has no time of nothing."""

Key = tuple[int, int, int]
Group = TypeVar("Group", bound=Hashable)


def fit_rows(
    samples: Samples,
    *,
    heads: Collection[int],
    repeats: Sequence[int],
    choose_ms: Mapping[tuple[int, int], float],
    host_ms: Mapping[int, float],
) -> list[ProfileRow]:
    """The rows of a profile of one device. `choose_ms` by (batch, query_tokens), `host_ms` by batch."""
    times: dict[Shot, list[float]] = defaultdict(list)
    for shots, runs in samples.items():
        for run in runs:
            for shot, ms in zip(shots, run, strict=True):
                times[shot].append(ms)
    middle = {shot: median(ms) for shot, ms in times.items()}
    keys = sorted({(shot.batch, shot.query_tokens, shot.context) for shot in times})
    solved = {key: _solve([(shot, ms) for shot, ms in middle.items() if _plain(shot, heads) and _key(shot) == key])
              for key in keys}  # fmt: skip
    fixed = _shared({key: found[0] for key, found in solved.items()}, lambda key: (key[0], key[1]))
    embedding = _shared({key: found[2] for key, found in solved.items()}, lambda key: key[0] * key[1])
    lm_head = _shared({key: found[3] for key, found in solved.items()}, lambda key: key[0] * key[1])

    rows = []
    layer: dict[Key, float] = {}
    for key in keys:
        b, q, c = key
        whole = next(shot for shot in times if _key(shot) == key and shot.first_layer == 0 and shot.read_out
                     and shot.last_layer == max(s.last_layer for s in times))  # fmt: skip
        # With the shared parts settled, a layer is what remains of the whole forward, so that this one is met exactly.
        rest = middle[whole] - fixed[b, q] - embedding[b * q] - lm_head[b * q]
        layer[key] = max(rest / whole.last_layer, LEAST_MS)
        low, high = np.quantile(times[whole], [0.1, 0.9]) / middle[whole]
        rows.append(_row("layer", b, q, c, layer[key], len(times[whole]), (float(low), float(high))))
    for (b, q), ms in fixed.items():
        rows.append(_row("forward", b, q, None, ms, 1))
    for op, shared in (("embedding", embedding), ("lm_head", lm_head)):
        rows += [_row(op, 1, tokens, None, ms, 1) for tokens, ms in shared.items()]
    for exit_layer in sorted(heads):
        for b, q, c in keys:
            shot = Shot(0, exit_layer, b, q, c, read_out=True)
            below = fixed[b, q] + exit_layer * layer[b, q, c] + embedding[b * q] + lm_head[b * q]
            rows.append(_row(exit_head_op(exit_layer), b, q, c, middle[shot] - below, len(times[shot])))
    for n_layers in repeats:
        for b, q, c in keys:
            if q == 1:
                shot = Shot(0, n_layers, b, q, c, read_out=False, repeat=True)
                ms = (middle[shot] - fixed[b, q] - embedding[b * q]) / n_layers
                rows.append(_row(layer_repeat_op(n_layers), b, q, c, ms, len(times[shot])))
    rows += [_row("choose", b, q, None, ms, 1) for (b, q), ms in choose_ms.items()]
    rows += [_row("host", b, 1, None, ms, 1) for b, ms in host_ms.items()]
    return rows


def _key(shot: Shot) -> Key:
    return shot.batch, shot.query_tokens, shot.context


def _plain(shot: Shot, heads: Collection[int]) -> bool:
    """A forward of nothing but the four parts."""
    return not shot.repeat and not (shot.read_out and shot.last_layer in heads)


def _solve(equations: Sequence[tuple[Shot, float]]) -> list[float]:
    """F, L, E and H in milliseconds."""
    matrix = np.array(
        [(1, shot.last_layer - shot.first_layer, shot.first_layer == 0, shot.read_out) for shot, _ in equations], float
    )
    ms = np.array([each for _, each in equations])
    matrix, ones = matrix / ms[:, None], np.ones(len(ms))  # relative errors
    used = [0, 1, 2, 3]
    found = np.zeros(4)
    while used:
        solution = np.linalg.lstsq(matrix[:, used], ones, rcond=None)[0]
        if (solution >= 0).all():
            found[used] = solution
            break
        used.pop(int(np.argmin(solution)))
    return [float(each) for each in found]


def _shared(values: Mapping[Key, float], group: Callable[[Key], Group]) -> dict[Group, float]:
    """The median of the values of each group."""
    groups: dict[Group, list[float]] = defaultdict(list)
    for key, value in values.items():
        groups[group(key)].append(value)
    return {name: max(median(found), LEAST_MS) for name, found in groups.items()}


def _row(
    op: str,
    batch: int,
    query_tokens: int,
    context: int | None,
    ms: float,
    repeats: int,
    quantiles: tuple[float, float] | None = None,
) -> ProfileRow:
    ms = float(f"{max(ms, LEAST_MS):.4g}")
    low, high = (None, None) if quantiles is None else (min(ms, ms * quantiles[0]), max(ms, ms * quantiles[1]))
    return ProfileRow(
        op=op,
        tensor_parallel=1,
        batch=batch,
        query_tokens=query_tokens,
        context=context,
        ms=ms,
        origin="measured",
        p10_ms=None if low is None else float(f"{low:.4g}"),
        p90_ms=None if high is None else float(f"{high:.4g}"),
        repeats=repeats,
    )
