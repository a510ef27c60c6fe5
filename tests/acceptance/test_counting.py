"""Counting the forwards of a replay: by hand, and what always holds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hispec_sim.acceptance.counting import Work, count_forwards
from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Prompt
from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.networks import NetworkSpec

EXITS = (Exit("net", 1), Exit("net", 2), Exit("net", 4))


NETWORK = NetworkSpec("net", 4, 8, 2, 2, 4, 16, 32, True)


def trace(*texts: list[list[int]]) -> AgreementTrace:
    """Labels of exits 1 and 2 over each text; the target's are 0. Behind a wrong token of exit 2, exit 1 agrees with it
    every other time."""
    labels = np.array([[*row, 0] for text in texts for row in text], np.uint8)
    starts = np.cumsum([0, *map(len, texts)])
    prompts = tuple(Prompt(str(i), str(i), "", 3) for i in range(len(texts)))
    behind = OffPath(np.array([[0, 0, 1]], np.int32), np.array([[[0, 0, 255], [1, 0, 255]]], np.uint8))
    return AgreementTrace((NETWORK,), EXITS, labels, starts, prompts, behind, None, {})


def cascade(*levels: tuple[int, int], bonus: Bonus = Bonus.ON_MISMATCH) -> Cascade:
    """Levels (exit layer, verify period)."""
    return Cascade(tuple(Level("net", *level) for level in levels), bonus)


def test_autoregressive_decoding_takes_a_forward_per_token() -> None:
    counts = count_forwards(cascade((4, 0)), trace([[0, 0]] * 5, [[0, 0]] * 3), range(2), seed=0)
    assert counts == {Work("net", 0, 4, 1, 1): 8}


def test_the_prefill_predicts_the_first_token() -> None:
    counts = count_forwards(cascade((4, 0)), trace([[0, 0]] * 5), range(1), seed=0, prompt_tokens=7)
    assert counts == {Work("net", 0, 4, 7, 1): 1, Work("net", 0, 4, 1, 1): 4}


def test_a_correction_is_pushed_with_the_next_draft() -> None:
    """Draft lengths of 2 over a text whose first token only the target knows: draft 2, correct the first, and then
    draft 2 more, the first of them after the correction alone."""
    counts = count_forwards(cascade((1, 0), (4, 2)), trace([[1, 0], [0, 0], [0, 0]]), range(1), seed=0)
    assert counts == {
        Work("net", 0, 1, 1, 1): 4,  # two drafts in each of two rounds
        Work("net", 1, 4, 2, 2): 2,  # each verified from the exit on
    }


def test_prefilled_cascades_write_what_is_recorded_and_no_more() -> None:
    """With every exit agreeing, prefill gives 1 token and three rounds of 2 drafted and 1 bonus token the other 9."""
    counts = count_forwards(
        cascade((1, 0), (4, 2), bonus=Bonus.ALWAYS), trace([[0, 0]] * 10), range(1), seed=0, prompt_tokens=3
    )
    assert counts == {
        Work("net", 0, 4, 3, 1): 1,
        Work("net", 0, 1, 1, 1): 6,
        Work("net", 0, 1, 1, 0): 3,
        Work("net", 1, 4, 3, 3): 3,
    }


@given(
    labels=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=1, max_size=30),
    draft_length=st.integers(1, 4),
    verify_period=st.integers(1, 6),
    bonus=st.sampled_from(Bonus),
    prompt_tokens=st.none() | st.integers(1, 5),
)
def test_every_recorded_token_reaches_the_targets_depth_once_or_more(
    labels: list[list[int]], draft_length: int, verify_period: int, bonus: Bonus, prompt_tokens: int | None
) -> None:
    hispec = cascade((1, 0), (2, draft_length), (4, verify_period), bonus=bonus)
    counts = count_forwards(hispec, trace(labels), range(1), seed=1, prompt_tokens=prompt_tokens)
    deep: Counter[str] = Counter()
    for work, times in counts.items():
        if work.last_layer == 4:
            deep["tokens"] += times * work.tokens
    # The newest committed token is pushed by the following round, so the last one never is.
    assert deep["tokens"] >= len(labels) - 1 + (prompt_tokens or 1)


def test_an_exit_that_is_not_recorded_is_named() -> None:
    with pytest.raises(ValueError, match="no exit net@3"):
        count_forwards(cascade((3, 0), (4, 2)), trace([[0, 0]]), range(1), seed=0)
