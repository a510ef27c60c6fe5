"""Traces put together: those of several sets of prompts as one, at the exits that all of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Sampling, pair_columns
from hispec_sim.errors import InputError


def join_traces(traces: Sequence[AgreementTrace], provenance: Mapping[str, Any]) -> AgreementTrace:
    """One trace of all sequences, in order, of the exits that all traces have. Raises InputError if these are none but
    the target, or the traces are of other networks or ways to sample. Continuations off the path are as long as the
    shortest ones."""
    first = traces[0]
    for trace in traces:
        same_network = trace.networks == first.networks and trace.exits[-1] == first.exits[-1]
        if not same_network or _drawn_as(trace) != _drawn_as(first):
            raise InputError("traces of different networks or ways to sample cannot be joined")
    common = [exit_ for exit_ in first.exits if all(exit_ in trace.exits for trace in traces)]
    if len(common) < min(2, len(first.exits)):
        raise InputError("traces that have no exit in common but the target cannot be joined; record the same --exits")
    traces = [kept_to(trace, common) for trace in traces]
    before = np.cumsum([0, *(trace.n_sequences for trace in traces[:-1])])
    at = [trace.off_path.at + np.array([n, 0, 0], np.int32) for trace, n in zip(traces, before, strict=True)]
    lengths = np.concatenate([trace.lengths for trace in traces])
    followed = [trace.off_path.rows for trace in traces if len(trace.off_path.at)] or [traces[0].off_path.rows]
    shortest = min(rows.shape[1] for rows in followed)
    parts = [trace.sampling for trace in traces if trace.sampling is not None]
    sampling = None
    if first.sampling is not None:
        sampling = Sampling(
            first.sampling.temperature,
            first.sampling.top_p,
            *(np.concatenate([getattr(p, name) for p in parts]) for name in ("log_prob", "acceptance", "confirmed")),
        )
    return AgreementTrace(
        networks=first.networks,
        exits=tuple(common),
        labels=np.concatenate([trace.labels for trace in traces]),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        prompts=tuple(prompt for trace in traces for prompt in trace.prompts),
        off_path=OffPath(np.concatenate(at), np.concatenate([rows[:, :shortest] for rows in followed])),
        sampling=sampling,
        provenance=provenance,
    )


def _drawn_as(trace: AgreementTrace) -> tuple[float, float] | None:
    """Temperature and top-p of its text; None of greedy text."""
    return None if trace.sampling is None else (trace.sampling.temperature, trace.sampling.top_p)


def kept_to(trace: AgreementTrace, exits: Sequence[Exit]) -> AgreementTrace:
    """The trace as if no other of its exits had been recorded; `exits` are in its order, the target is among them."""
    if list(exits) == list(trace.exits):
        return trace
    columns = [trace.exits.index(exit_) for exit_ in exits]
    at, rows = trace.off_path.at, trace.off_path.rows
    kept = np.isin(at[:, 2], columns)
    at = at[kept]
    at[:, 2] = np.searchsorted(columns, at[:, 2])
    sampling = trace.sampling
    if sampling is not None:
        pairs = _pairs(columns, len(trace.exits))
        below_target = _pairs(columns[:-1], len(trace.exits) - 1)
        sampling = replace(
            sampling,
            log_prob=sampling.log_prob[:, columns],
            acceptance=sampling.acceptance[:, pairs],
            confirmed=sampling.confirmed[:, below_target],
        )
    return replace(
        trace,
        exits=tuple(exits),
        labels=trace.labels[:, columns],
        off_path=OffPath(at, rows[kept][:, :, columns]),
        sampling=sampling,
    )


def _pairs(columns: Sequence[int], exits: int) -> list[int]:
    """Where all pairs of some of so many exits stand."""
    at = pair_columns(exits)
    return [at[columns[i], columns[j]] for i, j in pair_columns(len(columns))]
