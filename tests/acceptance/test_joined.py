"""Traces of different exits are joined at those that all have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from walking import verifications

from hispec_sim.acceptance.joined import join_traces, kept_to
from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Prompt, Sampling, pair_columns
from hispec_sim.cascade import Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.networks import NetworkSpec

NETWORK = NetworkSpec("net", 8, 64, 4, 2, 16, 96, 100)
EXITS = tuple(Exit("net", layer) for layer in (1, 2, 4, 6, 8))
KEPT = (EXITS[1], EXITS[3], EXITS[4])
POSITIONS = 60


def trace_of(seed: int, *, sampled: bool = False) -> AgreementTrace:
    rng, n = np.random.default_rng(seed), len(EXITS)
    labels = rng.integers(0, 3, (POSITIONS, n)).astype(np.uint8)
    labels[:, -1] = 0
    at = np.stack([np.zeros(24), rng.integers(0, POSITIONS, 24), np.arange(24) % (n - 1)], 1).astype(np.int32)
    rows = rng.integers(0, 2, (24, 4, n)).astype(np.uint8)
    for row, column in zip(rows, at[:, 2], strict=True):
        row[:, column] = 0
    sampling = None
    if sampled:
        acceptance = rng.integers(0, 256, (POSITIONS, n * (n - 1) // 2)).astype(np.uint8)
        confirmed = rng.integers(0, 256, (POSITIONS, (n - 1) * (n - 2) // 2)).astype(np.uint8)
        log_prob = -rng.random((POSITIONS, n)).astype(np.float16)
        sampling, rows = Sampling(0.8, 0.9, log_prob, acceptance, confirmed), -rng.random(rows.shape).astype(np.float16)
    starts = np.array([0, POSITIONS])
    return AgreementTrace(
        (NETWORK,), EXITS, labels, starts, (Prompt("a", "x", "0", 3),), OffPath(at, rows), sampling, {}
    )


def matched_counts(trace: AgreementTrace, seed: int) -> list[tuple[int, int, int]]:
    """What a cascade of the kept exits finds, verification by verification."""
    cascade = Cascade((Level("net", 2), Level("net", 6, 2), Level("net", 8, 3)))
    sampler = ReplaySource(trace, cascade, {"net": NETWORK}).sampler(0, np.random.default_rng(seed))
    return verifications(cascade, sampler, POSITIONS)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_exits_that_no_level_uses_do_not_matter(seed: int, sampled: bool) -> None:
    trace = trace_of(seed, sampled=sampled)
    assert matched_counts(kept_to(trace, KEPT), seed) == matched_counts(trace, seed)


def test_pairs_stay_with_their_exits() -> None:
    trace = trace_of(0, sampled=True)
    kept = kept_to(trace, KEPT)
    assert trace.sampling is not None
    assert kept.sampling is not None
    before, after = pair_columns(len(EXITS)), pair_columns(len(KEPT))
    for (i, j), column in after.items():
        was = before[EXITS.index(KEPT[i]), EXITS.index(KEPT[j])]
        np.testing.assert_array_equal(kept.sampling.acceptance[:, column], trace.sampling.acceptance[:, was])
    was = pair_columns(len(EXITS) - 1)[1, 3]
    np.testing.assert_array_equal(kept.sampling.confirmed[:, 0], trace.sampling.confirmed[:, was])


def test_a_joined_trace_has_the_exits_of_all() -> None:
    joined = join_traces([trace_of(0), kept_to(trace_of(1), KEPT)], {})
    assert joined.exits == KEPT
    assert joined.n_sequences == 2
    np.testing.assert_array_equal(joined.labels[:POSITIONS], trace_of(0).labels[:, [1, 3, 4]])
    assert set(joined.off_path.at[:, 2]) == {0, 1}
    assert join_traces([trace_of(0), trace_of(1)], {}).exits == EXITS


def test_continuations_are_as_long_as_the_shortest() -> None:
    """Four tokens and two behind wrong ones: two; a trace without any does not matter."""
    long, short, none = trace_of(0), trace_of(1), replace(trace_of(2), off_path=OffPath.none(len(EXITS), sampled=False))
    short = replace(short, off_path=OffPath(short.off_path.at, short.off_path.rows[:, :2]))
    joined = join_traces([long, none, short], {})
    np.testing.assert_array_equal(joined.off_path.rows[:24], long.off_path.rows[:, :2])
    np.testing.assert_array_equal(joined.off_path.rows[24:], short.off_path.rows)
    assert set(joined.off_path.at[24:, 0]) == {2}
    assert len(join_traces([none, none], {}).off_path.at) == 0


def test_traces_that_were_drawn_otherwise_are_refused() -> None:
    one, other = trace_of(0, sampled=True), trace_of(1, sampled=True)
    assert other.sampling is not None
    hotter = replace(other, sampling=replace(other.sampling, temperature=1.5))
    for traces in ([one, hotter], [one, trace_of(1)]):
        with pytest.raises(InputError, match="ways to sample"):
            join_traces(traces, {})


def test_traces_that_have_nothing_in_common_are_refused() -> None:
    other = replace(NETWORK, name="other")
    renamed = replace(trace_of(1), networks=(other,), exits=tuple(Exit("other", e.exit_layer) for e in EXITS))
    with pytest.raises(InputError, match="different networks"):
        join_traces([trace_of(0), renamed], {})
    low, high = (kept_to(trace_of(0), [*some, EXITS[-1]]) for some in (EXITS[:2], EXITS[2:4]))
    with pytest.raises(InputError, match="no exit in common but the target"):
        join_traces([low, high], {})
