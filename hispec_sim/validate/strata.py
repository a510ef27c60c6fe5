"""Strata: requests whose prompts are of one kind (code, prose), and the recorded sequences that stand in for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from hispec_sim.acceptance.trace import AgreementTrace
from hispec_sim.errors import InputError
from hispec_sim.validate.design import Configuration


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


def first_of(strata: Sequence[Stratum], requests: int | None) -> list[Stratum]:
    """The strata of the first so many requests, or of all; those that have none are left out."""
    kept = [replace(s, requests=[r for r in s.requests if requests is None or r < requests]) for s in strata]
    return [stratum for stratum in kept if stratum.requests]


def drawn(
    strata: Sequence[Stratum], trace: AgreementTrace, configuration: Configuration, rng: np.random.Generator
) -> list[int]:
    """A recorded sequence of the joined trace for each request, from a resample of its stratum. Raises InputError if a
    stratum has none that is long enough."""
    chosen: dict[int, int] = {}
    for stratum in strata:
        groups = _long_enough(stratum, trace, configuration)
        sequences = resampled(groups, len(stratum.requests), stratum.groups, rng)
        chosen.update(zip(stratum.requests, sequences, strict=True))
    return [chosen[request] for request in range(len(chosen))]


def evenly_drawn(
    strata: Sequence[Stratum], trace: AgreementTrace, configuration: Configuration, runs: int, rng: np.random.Generator
) -> list[list[int]]:
    """The same for so many runs that together have every group of a stratum as often as any other, or once more, and
    every sequence of a group likewise. Raises InputError as `drawn`."""
    chosen: list[dict[int, int]] = [{} for _ in range(runs)]
    for stratum in strata:
        groups, each = _long_enough(stratum, trace, configuration), len(stratum.requests)
        sequences = shared_out(groups, runs * each, rng)
        for run, found in enumerate(chosen):
            found.update(zip(stratum.requests, sequences[run * each :], strict=False))
    return [[found[request] for request in range(len(found))] for found in chosen]


def _long_enough(stratum: Stratum, trace: AgreementTrace, configuration: Configuration) -> list[list[int]]:
    """The sequences of a stratum that have all the new tokens of a configuration, by group."""
    pool: dict[str, list[int]] = defaultdict(list)
    for sequence in stratum.sequences:
        if trace.lengths[sequence] >= configuration.max_new_tokens:
            pool[trace.prompts[sequence].group].append(sequence)
    if not pool:
        longest = max(trace.lengths[sequence] for sequence in stratum.sequences)
        raise InputError(
            f"configuration {configuration.name}: no recorded text has {configuration.max_new_tokens} tokens "
            f"(the longest has {longest}); record the trace with more --max-new-tokens"
        )
    return list(pool.values())


def resampled(
    groups: Sequence[Sequence[int]], requests: int, request_groups: int, rng: np.random.Generator
) -> list[int]:
    """Recorded sequences for so many requests of so many groups, drawn from a resample of the trace's own `groups`.

    Prompts of one group (a topic, a file) are alike, so that groups are drawn, and sequences within them; requests go
    round the drawn groups.
    """
    trace = rng.integers(len(groups), size=len(groups))
    drawn = rng.choice(trace, request_groups)
    return [int(rng.choice(groups[drawn[request % request_groups]])) for request in range(requests)]


def shared_out(groups: Sequence[Sequence[int]], number: int, rng: np.random.Generator) -> list[int]:
    """So many sequences: one of each group in random order, then the next of each in another order, and round."""
    shuffled = [rng.permutation(group) for group in groups]
    found: list[int] = []
    for lap in range(-(-number // len(groups))):
        found += [int(shuffled[k][lap % len(shuffled[k])]) for k in rng.permutation(len(groups))]
    return found[:number]
