"""What a trace says, in numbers: shares with standard errors over sequences, since positions of one text are not
independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.trace import STEPS, AgreementTrace, pair_columns

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Share:
    """A share (or a mean between 0 and 1) of `count` positions, with its standard error over sequences (NaN if it has
    positions in one sequence only)."""

    value: float
    error: float
    count: int

    def __str__(self) -> str:
        if self.count == 0:
            return "-"
        return f"{self.value:.3f}" if math.isnan(self.error) else f"{self.value:.3f} ± {self.error:.3f}"


@dataclass(frozen=True, slots=True)
class PairTable:
    """A draft and a middle exit against the target, by columns, on the target's path and behind the middle's wrong
    tokens."""

    draft: int
    middle: int
    same: Share
    target_if_same: Share
    target_if_differ: Share
    off_path: Share


def share(trace: AgreementTrace, values: NDArray[np.float64] | Mask, among: Mask | None = None) -> Share:
    """The mean of values over positions, or over those `among` them."""
    sequence = np.repeat(np.arange(trace.n_sequences), trace.lengths)
    chosen = np.ones(len(values), bool) if among is None else among
    return _over_sequences(values[chosen].astype(float), sequence[chosen], trace.n_sequences)


def _over_sequences(values: NDArray[np.float64], sequence: NDArray[np.int64], n: int) -> Share:
    """Mean of values and its error, as a ratio of sums over sequences, linearised (Cochran 1977)."""
    if not len(values):
        return Share(math.nan, math.nan, 0)
    found, counts = np.bincount(sequence, values, n), np.bincount(sequence, minlength=n)
    ratio = float(values.mean())
    units = int((counts > 0).sum())
    if units < 2:
        return Share(ratio, math.nan, len(values))
    spread = float(((found - ratio * counts) ** 2).sum())
    return Share(ratio, math.sqrt(units / (units - 1) * spread) / len(values), len(values))


def agrees(trace: AgreementTrace, column: int) -> Mask:
    """Where an exit's first choice is the target's."""
    hits: Mask = trace.labels[:, column] == 0
    return hits


def agreement(trace: AgreementTrace, column: int) -> Share:
    """The share of positions where an exit's first choice is the target's."""
    return share(trace, agrees(trace, column))


def acceptance(trace: AgreementTrace, lower: int, upper: int) -> Share | None:
    """Mean probability that one exit accepts a sample of another; None for greedy traces."""
    if trace.sampling is None:
        return None
    column = pair_columns(len(trace.exits))[lower, upper]
    return share(trace, trace.sampling.acceptance[:, column] / STEPS)


def since_rejection(trace: AgreementTrace, column: int, places: int) -> list[Share]:
    """Agreement by how many tokens in a row agreed before, from 0 (right behind a disagreement or at the beginning)."""
    hits = agrees(trace, column)
    before = np.zeros(len(hits), np.int64)
    for start, stop in zip(trace.starts[:-1], trace.starts[1:], strict=True):
        run = 0
        for position in range(int(start), int(stop)):
            before[position] = run
            run = run + 1 if hits[position] else 0
    return [share(trace, hits, before == place) for place in range(places)]


def run_lengths(trace: AgreementTrace, column: int) -> NDArray[np.int64]:
    """Lengths of all runs of agreement that a disagreement ended (0 where one follows another); a run that the end of
    a sequence cut off is left out."""
    hits, runs = agrees(trace, column), []
    for start, stop in zip(trace.starts[:-1], trace.starts[1:], strict=True):
        wrong = np.flatnonzero(~hits[start:stop])
        runs.append(np.diff(np.concatenate([[-1], wrong])) - 1)
    return np.concatenate(runs)


def autocorrelation(trace: AgreementTrace, column: int, lags: Sequence[int]) -> list[float]:
    """Correlation of agreement at positions so many tokens apart, within sequences; NaN if agreement never varies."""
    hits = agrees(trace, column).astype(float) - agrees(trace, column).mean()
    variance = float((hits**2).mean())
    found = []
    for lag in lags:
        parts = [
            hits[start : stop - lag] * hits[start + lag : stop]
            for start, stop in zip(trace.starts[:-1], trace.starts[1:], strict=True)
            if stop - start > lag
        ]
        products = np.concatenate(parts) if parts else np.zeros(0)
        found.append(float(products.mean() / variance) if len(products) and variance > 0 else math.nan)
    return found


def pair_table(trace: AgreementTrace, draft: int, middle: int) -> PairTable:
    """The conditional agreements that a cascade of three levels lives by."""
    same = trace.labels[:, draft] == trace.labels[:, middle]
    right = agrees(trace, middle)
    return PairTable(
        draft,
        middle,
        share(trace, same),
        share(trace, right, same),
        share(trace, right, ~same),
        off_path_agreement(trace, draft, middle),
    )


def off_path_agreement(trace: AgreementTrace, draft: int, middle: int) -> Share:
    """How often the middle accepts the draft's token behind a wrong token of its own."""
    mine = trace.off_path.at[:, 2] == middle
    sequence, rows = trace.off_path.at[mine, 0].astype(np.int64), trace.off_path.rows[mine]
    if trace.sampling is None:
        values = (rows[:, :, draft] == 0).astype(float)
    else:
        with np.errstate(invalid="ignore"):
            ratio = rows[:, :, draft].astype(float) - rows[:, :, middle].astype(float)
        values = np.exp(np.minimum(ratio, 0))
    if draft >= middle:
        values = values[:0]
    tokens = values.shape[1] if len(values) else 0
    return _over_sequences(values.ravel(), np.repeat(sequence[: len(values)], tokens), trace.n_sequences)
