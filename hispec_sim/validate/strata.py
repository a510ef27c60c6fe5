"""Strata: requests whose prompts are of one kind (code, prose), and the recorded sequences that stand in for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from hispec_sim.acceptance.trace import AgreementTrace


@dataclass(frozen=True, slots=True)
class Stratum:
    """Requests of one set of prompts: their numbers, of how many groups their prompts are, and the recorded sequences
    of that kind."""

    requests: Sequence[int]
    groups: int
    sequences: Sequence[int]


def strata_of(groups: Sequence[str], sets: int, traces: Sequence[AgreementTrace]) -> list[Stratum]:
    """One stratum for each set of prompts. `groups`: that of each request's prompt, request i being of set i modulo
    their number; `traces`: one for each set, or one for all, whose sequences are counted through as in the joined
    trace."""
    ends = list(accumulate(trace.n_sequences for trace in traces))
    of_trace = [range(end - trace.n_sequences, end) for end, trace in zip(ends, traces, strict=True)]
    return [
        Stratum(range(k, len(groups), sets), len(set(groups[k::sets])), of_trace[k if len(traces) > 1 else 0])
        for k in range(sets)
    ]
