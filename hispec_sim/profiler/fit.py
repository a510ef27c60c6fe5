"""From timed forwards to the rows of a latency profile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hispec_sim.latency.ops import exit_head_op, gap_op, repeat_op, shortlist_op, verify_op
from hispec_sim.latency.profile_row import ProfileRow
from hispec_sim.profiler.context_lines import Curve, drawn
from hispec_sim.profiler.forwards import Point, What
from hispec_sim.profiler.measure import relative_error
from hispec_sim.profiler.parts import LEAST_MS, Part, solve
from hispec_sim.profiler.verified_pace import at_one_pace

MOST_LATE = 4.0
"""Times of a forward count up to so many times their median in a mean: a process that is put aside for a second is none
of its business."""

OFTEN = 10
"""Gaps behind verifications of so many rows count where there are so many of them."""

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Fit:
    """Rows of a profile, the median and 95th percentile of |fitted / timed - 1| over all spans, and the mean of
    their times over their medians."""

    rows: tuple[ProfileRow, ...]
    residual_median: float
    residual_p95: float
    mean_over_median: float


@dataclass(frozen=True, slots=True)
class Times:
    """A point's times in milliseconds, as they were; at the machine's usual pace, their median, and their mean but for
    those beyond `MOST_LATE` times it."""

    ms: NDArray[np.float64]
    median: float
    mean: float
    error: float
    """Relative standard error of the median; 0 where it is not known, for what nobody knows to scatter stands."""


def fit(samples: Mapping[Point, Sequence[float]], steady: Mapping[Point, Sequence[float]] | None = None) -> Fit:
    """The rows that the samples make; times in milliseconds. `steady`: the same at the machine's usual pace
    (`pace.steadied`), whose medians vary less; the spread in the rows remains that of the samples."""
    times = {point: _times(ms, (steady or samples)[point]) for point, ms in samples.items()}
    spans = {point: each for point, each in times.items() if point.what is What.SPAN}
    parts, residuals = solve({point: each.median for point, each in spans.items()})
    parts |= _on_lines(parts, spans)
    late = fmean(each.mean / each.median for each in spans.values())
    # A long run is priced at the sum of its times, and this mean: what has a mean of its own has it there.
    means = {point: each.mean / late for point, each in times.items()}
    means |= at_one_pace(means)
    loop = _loop(times, means)
    rows = [
        *(_row(_named(part), ms, _evidence(part, spans)) for part, ms in parts.items()),
        *_repeats(times, means),
        *_verifications(times, means),
        *_exit_heads(times, parts),
        *_shortlists(times),
        *loop,
        *_behind_drafts(times, means, {row.batch: row.ms for row in loop if row.op == "host"}),
    ]
    return Fit(tuple(rows), float(np.median(residuals)), float(np.quantile(residuals, 0.95)), late)


def _times(ms: Sequence[float], steady: Sequence[float]) -> Times:
    error, median = relative_error(steady), float(np.median(steady))
    # Where the median is no more than noise there is no saying what is late.
    mean = float(np.mean(np.minimum(steady, MOST_LATE * median))) if median > 0 else median
    return Times(np.asarray(ms), median, mean, error if isfinite(error) else 0.0)


def _evidence(part: Part, spans: Mapping[Point, Times]) -> Times:
    """The times whose spread stands for a part's: of the forward that tells most about it."""
    op, batch, tokens, context = part
    if op == "layer":
        return next(
            ms
            for p, ms in spans.items()
            if (p.batch, p.query_tokens, p.context) == (batch, tokens, context)
            and p.logits  # all layers at once, or the last of a prompt
            and (p.first_layer == 0 or tokens == context)
        )
    if op == "forward":
        return next(ms for p, ms in spans.items() if (p.batch, p.query_tokens) == (batch, tokens) and not p.logits)
    if op == "embedding":
        return next(ms for p, ms in spans.items() if p.batch * p.query_tokens == tokens and p.first_layer == 0)
    return next(ms for p, ms in spans.items() if p.batch * p.logits == tokens and p.first_layer > 0)


def _on_lines(parts: Mapping[Part, float], spans: Mapping[Point, Times]) -> dict[Part, float]:
    """The layers of verifications, drawn to straight lines along the context; those of prompts end where they begin."""
    found = {
        part: (ms, _evidence(part, spans).error)
        for part, ms in parts.items()
        if part[0] == "layer" and part[2] != part[3]
    }
    return _drawn(found, lambda part: part[:3], lambda part: part[3])


def _drawn(
    found: Mapping[K, tuple[float, float]], shape_of: Callable[[K], object], context_of: Callable[[K], int]
) -> dict[K, float]:
    """Milliseconds with their relative errors, drawn to a straight line along the context for each shape."""
    shapes: dict[object, list[K]] = defaultdict(list)
    for key in sorted(found, key=context_of):
        shapes[shape_of(key)].append(key)
    curves = [
        Curve(tuple(map(context_of, keys)), tuple(found[key][0] for key in keys), tuple(found[key][1] for key in keys))
        for keys in shapes.values()
    ]
    return {
        key: ms
        for keys, curve in zip(shapes.values(), drawn(curves), strict=True)
        for key, ms in zip(keys, curve, strict=True)
    }


def _named(part: Part) -> Part:
    """The point of a part in a profile, where layers of whole prompts have a name of their own."""
    op, batch, tokens, context = part
    return ("layer_prefill" if op == "layer" and tokens == context else op, batch, tokens, context)


def _row(part: Part, ms: float, evidence: Times) -> ProfileRow:
    """A measured row; its quantiles are as far from its median, relatively, as those of the evidence."""
    op, batch, tokens, context = part
    middle = evidence.median
    low, high = (float(x) / middle if middle > 0 else 1.0 for x in np.quantile(evidence.ms, (0.1, 0.9)))
    p10_ms = max(LEAST_MS / 10, ms * min(low, 1.0))
    return ProfileRow(
        op, 1, batch, tokens, context or None, ms, "measured", p10_ms, ms * max(high, 1.0), len(evidence.ms)
    )


def _repeats(times: Mapping[Point, Times], means: Mapping[Point, float]) -> list[ProfileRow]:
    """Whole forwards of one token in rows, drawn to straight lines along the context. Means: what few layers take has
    two humps, one where caches still hold them and one where they do not."""
    found = {p: (means[p], each.error) for p, each in times.items() if p.what is What.REPEAT}
    return [
        _row((repeat_op(p.last_layer, read=p.logits > 0), p.batch, p.query_tokens, p.context), ms, times[p])
        for p, ms in _drawn(found, lambda p: replace(p, context=0), lambda p: p.context).items()
    ]


def _verifications(times: Mapping[Point, Times], means: Mapping[Point, float]) -> list[ProfileRow]:
    """Forwards of the target behind rows of drafts; means, as of those rows."""
    return [
        _row((verify_op(p.first_layer), p.batch, p.query_tokens, p.context), means[p], each)
        for p, each in times.items()
        if p.what is What.VERIFY
    ]


def _exit_heads(times: Mapping[Point, Times], parts: Mapping[Part, float]) -> list[ProfileRow]:
    return [
        _row(
            (exit_head_op(p.last_layer), p.batch, p.query_tokens, p.context),
            max(LEAST_MS, each.median - parts["lm_head", 1, p.batch * p.logits, 0]),
            each,
        )
        for p, each in times.items()
        if p.what is What.EXIT_HEAD
    ]


def _shortlists(times: Mapping[Point, Times]) -> list[ProfileRow]:
    """LM heads of shortlists are small against noise: a straight line over rows, which never falls."""
    rows = []
    points = sorted(point for point in times if point.what is What.SHORTLIST)
    for size in sorted({point.size for point in points}):
        mine = [point for point in points if point.size == size]
        counts = np.array([point.batch * point.logits for point in mine], dtype=np.float64)
        ms = np.array([times[point].median for point in mine])
        slope = max(0.0, float(np.polyfit(counts, ms, 1)[0])) if len(mine) > 1 else 0.0
        start = float(np.mean(ms - slope * counts))
        for point, count in zip(mine, counts, strict=True):
            fitted_ms = max(LEAST_MS, start + slope * float(count))
            rows.append(_row((shortlist_op(size), 1, int(count), 0), fitted_ms, times[point]))
    return rows


def _loop(times: Mapping[Point, Times], means: Mapping[Point, float]) -> list[ProfileRow]:
    """`host` and `choose`: the gap behind a forward that is not read out, and what reading out adds to it; means, for
    gaps are seldom long, but then by much. Batches that the decodes did not meet share the gap per sequence of those
    that they did. Choices of several rows are timed by themselves, and `_committing` adds what else they bring."""
    judged = {point.batch: point for point in times if point.what is What.JUDGE and point.query_tokens == 1}
    read = {p.batch: p for p in times if p.what is What.READ and p.query_tokens == 1}
    passed = {p.batch: p for p in times if p.what is What.PASS}
    if not judged or not read:
        return []
    share = np.median([means[passed[b]] / means[read[b]] for b in passed if b in read] or [0.25])
    rows = []
    for batch in judged:
        near = min(read, key=lambda b: abs(b - batch))
        gap_ms = means[read[near]] * batch / near
        host_ms = means[passed[batch]] if batch in passed else float(share) * gap_ms
        host_ms = max(LEAST_MS, min(host_ms, gap_ms - LEAST_MS))
        committing = _committing(times, means, batch)
        evidence = times[read[near]]
        rows.append(_row(("host", batch, 1, 0), host_ms, evidence))
        for point in times:
            if point.what is What.JUDGE and point.batch == batch:
                more_ms = means[point] - means[judged[batch]] + committing(point.query_tokens)
                part = ("choose", batch, point.query_tokens, 0)
                rows.append(_row(part, max(LEAST_MS, gap_ms - host_ms + more_ms), times[point]))
    return rows


def _committing(times: Mapping[Point, Times], means: Mapping[Point, float], batch: int) -> Callable[[int], float]:
    """How much longer the gap behind a verification of so many rows is than behind one of one row, choices aside, in
    milliseconds: drawn through the numbers of rows that decodes met often."""
    of_rows = {
        p.query_tokens: means[p]
        for p, each in times.items()
        if p.what is What.READ and p.batch == batch and (p.query_tokens == 1 or len(each.ms) >= OFTEN)
    }
    if 1 not in of_rows:
        return lambda rows: 0.0
    choices = {p.query_tokens: means[p] for p in sorted(times) if p.what is What.JUDGE and p.batch == batch}
    known = sorted(of_rows)
    more_ms = np.array([of_rows[rows] for rows in known]) - np.interp(known, list(choices), list(choices.values()))
    return lambda rows: float(np.interp(rows, known, more_ms - more_ms[0]))


def _behind_drafts(
    times: Mapping[Point, Times], means: Mapping[Point, float], host_ms: Mapping[int, float]
) -> list[ProfileRow]:
    """`host` and `choose` behind forwards of few layers; `host_ms` by batch."""
    rows = []
    for point, each in times.items():
        if point.what in (What.DRAFTED, What.CAUGHT_UP) and point.batch in host_ms:
            read = point.what is What.DRAFTED
            gap_ms = means[point] - host_ms[point.batch] * read
            part = (gap_op(point.last_layer, read=read), point.batch, point.query_tokens, 0)
            rows.append(_row(part, max(LEAST_MS, gap_ms), each))
    return rows
