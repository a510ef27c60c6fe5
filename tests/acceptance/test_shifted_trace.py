"""A trace with one exit's agreement moved: by as much as asked, nested, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hispec_sim.acceptance.shifted_trace import recorded_agreement, with_agreement
from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Prompt, Sampling
from hispec_sim.networks import known_networks

POSITIONS = 4000
LLAMA = known_networks()["llama-3.1-8b"]
EXITS = (Exit(LLAMA.name, 4), Exit(LLAMA.name, 8), Exit(LLAMA.name, 32))


def trace(*, sampled: bool) -> AgreementTrace:
    """Exits 4 and 8 agree on .6 and .9 of the positions; both make the same mistake at times."""
    rng = np.random.default_rng(0)
    wrong = rng.random((POSITIONS, 2)) > (0.6, 0.9)
    labels = np.column_stack([wrong[:, 0] * 1, wrong[:, 1] * rng.integers(1, 3, POSITIONS), np.zeros(POSITIONS)])
    sampling = None
    if sampled:
        log_prob = np.log(rng.uniform(0.1, 1.0, (POSITIONS, 3))).astype(np.float16)
        pairs = np.full((POSITIONS, 3), 128, np.uint8)
        sampling = Sampling(0.8, 1.0, log_prob, pairs, pairs[:, :1])
    return AgreementTrace(
        (LLAMA,), EXITS, labels.astype(np.uint8), np.array([0, POSITIONS], np.int64), (Prompt("a", "a", "", 4),),
        OffPath.none(3, sampled=sampled), sampling, {},
    )  # fmt: skip


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("asked", [0.0, 0.3, 0.75, 0.97, 1.0])
def test_agreement_is_moved_and_all_else_kept(sampled: bool, column: int, asked: float) -> None:
    before = trace(sampled=sampled)
    after = with_agreement(before, column, asked)
    assert recorded_agreement(after, column) == pytest.approx(asked, abs=0.02)
    assert recorded_agreement(after, 1 - column) == recorded_agreement(before, 1 - column)
    assert (after.labels[:, 1 - column] == before.labels[:, 1 - column]).all()
    assert (after.starts == before.starts).all()


@pytest.mark.parametrize("sampled", [False, True])
def test_nothing_changes_at_what_was_recorded(sampled: bool) -> None:
    before = trace(sampled=sampled)
    after = with_agreement(before, 0, recorded_agreement(before, 0))
    assert (after.labels == before.labels).all()
    if before.sampling is not None and after.sampling is not None:
        assert (after.sampling.log_prob == before.sampling.log_prob).all()


def test_less_agreement_is_part_of_more() -> None:
    before = trace(sampled=False)
    agreed = [with_agreement(before, 0, share).labels[:, 0] == 0 for share in (0.2, 0.4, 0.6, 0.8)]
    for less, more in pairwise(agreed):
        assert (less <= more).all()
        assert less.sum() < more.sum()


def test_a_new_mistake_is_nobody_elses() -> None:
    before = trace(sampled=False)
    after = with_agreement(before, 0, 0.3)
    new = (before.labels[:, 0] == 0) & (after.labels[:, 0] != 0)
    assert new.any()
    assert (after.labels[new, 0] != after.labels[new, 1]).all()


def test_an_exit_that_always_agrees() -> None:
    before = trace(sampled=False)
    labels = before.labels.copy()
    labels[:, 0] = 0
    always = replace(before, labels=labels)
    assert recorded_agreement(with_agreement(always, 0, 1.0), 0) == 1.0
    assert recorded_agreement(with_agreement(always, 0, 0.5), 0) == pytest.approx(0.5, abs=0.02)
