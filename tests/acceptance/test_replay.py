"""Replaying an agreement trace: the same outcomes, and so the same forwards, as decoding the recorded text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from walking import verifications

from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.trace import UNREAD, AgreementTrace, Exit, OffPath, Prompt, label_predictions
from hispec_sim.acceptance.trace_file import load_trace, save_trace
from hispec_sim.cascade import Bonus, Cascade, Level, Outcome, apply_outcome, next_step, start
from hispec_sim.errors import InputError
from hispec_sim.networks import NetworkSpec

NETWORKS = (NetworkSpec("draft", 4, 64, 4, 2, 16, 96, 4), NetworkSpec("big", 24, 128, 4, 2, 32, 96, 4))
SHAPES = {network.name: network for network in NETWORKS}
EXITS = (Exit("draft", 4), Exit("big", 6), Exit("big", 12), Exit("big", 24))


def recorded(rng: np.random.Generator, positions: int, agreement: float) -> NDArray[np.int64]:
    """Token ids that each exit predicts; exits agree with the target with the given probability."""
    predictions = rng.integers(0, 4, (positions, len(EXITS)))
    agrees = rng.random(predictions.shape) < agreement
    return np.where(agrees, predictions[:, -1:], predictions)


def trace_of(predictions: NDArray[np.int64], off_path: float = 1.0) -> AgreementTrace:
    """Two sequences; behind wrong tokens every exit agrees with the one that goes on with probability `off_path`."""
    rng, n = np.random.default_rng(9), len(EXITS)
    at = np.array([[0, 0, column] for column in range(n - 1) for _ in range(500)], np.int32)
    rows = (rng.random((len(at), 10, n)) >= off_path).astype(np.uint8)
    for column in range(n - 1):
        mine = at[:, 2] == column
        rows[mine, :, column], rows[mine, :, column + 1 :] = 0, UNREAD
    labels = label_predictions(predictions)
    starts = np.array([0, len(predictions) // 2, len(predictions)])
    prompts = tuple(Prompt(name, name, "0" * 64, 3) for name in "ab")
    return AgreementTrace(NETWORKS, EXITS, labels, starts, prompts, OffPath(at, rows), None, {"command": "test"})


def decode(cascade: Cascade, predictions: NDArray[np.int64], columns: list[int]) -> list[tuple[int, int, int]]:
    """The steps (level, run, matched) of decoding text on which the exits predict `predictions`.

    Behind a token that is not the target's, every level but the target accepts whatever it is shown.
    """
    truth = predictions[:, -1]
    state, text, tentative, steps = start(cascade, len(truth)), 0, [], []
    while not state.finished:
        step, k = next_step(cascade, state), state.turn
        first = state.tentative[k]

        def says(level: int, place: int, text: int = text, tentative: list[int] = tentative) -> int:
            on_path = all(token == truth[text + i] for i, token in enumerate(tentative[:place]))
            if on_path:
                return int(predictions[text + place, columns[level]])
            return tentative[place] if place < len(tentative) else -1

        matched = 0
        while matched < step.run and says(k, first + matched) == tentative[first + matched]:
            matched += 1
        own = k == 0 or step.bonus or matched < step.run
        token = says(k, first + matched) if own else None
        if k > 0:
            steps.append((k, step.run, matched))
            del tentative[first + matched :]
        if token is not None:
            tentative.append(token)
        state = apply_outcome(cascade, state, Outcome(matched))
        if k == cascade.target:
            assert tentative == list(truth[text : text + len(tentative)]), "committed text is the target's"
            text += len(tentative)
            tentative.clear()
    return steps


def replay(cascade: Cascade, source: ReplaySource, sequence: int) -> list[tuple[int, int, int]]:
    """The same steps, as the simulator sees them."""
    sampler = source.sampler(sequence, np.random.default_rng(0))
    return verifications(cascade, sampler, source.output_tokens(sequence))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    agreement=st.sampled_from([0.0, 0.4, 0.8, 1.0]),
    columns=st.sampled_from([(3,), (0, 3), (1, 3), (1, 2, 3), (0, 2, 3), (0, 1, 2, 3)]),
    periods=st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 9)),
    bonus=st.sampled_from(Bonus),
)
def test_replay_is_exact_on_the_targets_path(
    seed: int, agreement: float, columns: tuple[int, ...], periods: tuple[int, int, int], bonus: Bonus
) -> None:
    """Every outcome of every level, whatever the cascade."""
    predictions = recorded(np.random.default_rng(seed), 60, agreement)
    levels = [Level(*EXITS[column], verify_period=(0, *periods)[k]) for k, column in enumerate(columns)]
    cascade = Cascade(tuple(levels), bonus)
    source = ReplaySource(trace_of(predictions), cascade, SHAPES)
    for sequence, rows in enumerate((predictions[:30], predictions[30:])):
        assert replay(cascade, source, sequence) == decode(cascade, rows, list(columns))


@given(seed=st.integers(0, 2**32 - 1))
def test_labels_keep_exactly_who_agrees_with_whom(seed: int) -> None:
    """Two exits have one label where they predict one token, and 0 is the target's."""
    predictions = recorded(np.random.default_rng(seed), 20, 0.3)
    labels = label_predictions(predictions)
    same_token = predictions[:, :, None] == predictions[:, None, :]
    same_label = labels[:, :, None] == labels[:, None, :]
    assert (same_token == same_label).all()
    assert (labels[:, -1] == 0).all()


def test_a_trace_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """All parts, and equal traces make equal files."""
    trace = trace_of(recorded(np.random.default_rng(1), 200, 0.7), off_path=0.6)
    save_trace(trace, tmp_path / "a.npz")
    save_trace(trace, tmp_path / "b.npz")
    again = load_trace(tmp_path / "a.npz")
    assert again.exits == trace.exits
    assert again.provenance == {"command": "test"}
    for name in ("labels", "starts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trace, name))
    for name in ("at", "rows"):
        np.testing.assert_array_equal(getattr(again.off_path, name), getattr(trace.off_path, name))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with pytest.raises(ValueError, match="exists"):
        save_trace(trace, tmp_path / "a.npz")


def test_off_the_path_agreement_is_what_was_measured() -> None:
    """Behind the target's first disagreement, level 1 accepts at the recorded off-path rate."""
    predictions = np.zeros((4000, 4), np.int64)
    predictions[:, :3] = 1  # all exits agree with one another, and never with the target
    cascade = Cascade((Level("draft", 4), Level("big", 6, 4), Level("big", 24, 4)))
    source = ReplaySource(trace_of(predictions, off_path=0.7), cascade, SHAPES)
    steps = [
        matched
        for sequence in (0, 1)
        for level, run, matched in replay(cascade, source, sequence)
        if level == 1 and run == 4
    ]
    # The first token of a round is on the path and agreed; each of the next three matches with probability .7.
    first_round = np.bincount(steps, minlength=5) / len(steps)
    expected = np.array([0, 0.3, 0.21, 0.147, 0.343])
    # Later rounds of level 1 start off the path, with four draws instead of three.
    later = np.array([0.3, 0.21, 0.147, 0.1029, 0.2401])
    share = first_round[0] / later[0]
    np.testing.assert_allclose(first_round, share * later + (1 - share) * expected, atol=0.03)


def test_a_wrong_token_that_was_not_followed_goes_on_as_others_of_its_text_do() -> None:
    """In the first text nobody agrees off the path, in the second all do; the third has nothing recorded."""
    predictions = np.zeros((300, 4), np.int64)
    predictions[:, :3] = 1  # all exits agree with one another, and never with the target
    every = trace_of(predictions)
    at = np.array([[0, 149, 1], [1, 140, 1]], np.int32)
    rows = np.zeros((2, 3, len(EXITS)), np.uint8)
    rows[0, :, 0], rows[:, :, 2:] = 1, UNREAD
    starts, prompts = np.array([0, 150, 299, 300]), (*every.prompts, Prompt("c", "c", "0" * 64, 3))
    trace = replace(every, off_path=OffPath(at, rows), starts=starts, prompts=prompts)
    cascade = Cascade((Level("draft", 4), Level("big", 6, 2), Level("big", 24, 4)), Bonus.ALWAYS)
    source, rng = ReplaySource(trace, cascade, SHAPES), np.random.default_rng(0)
    for position in (7, None):
        assert source.continuation(1, 0, position, rng) == [[1, 0]] * 3
        assert source.continuation(1, 1, position, rng) == [[0, 0]] * 3
    assert {source.any_continuation(1, 2, rng) for _ in range(50)} == {0, 1}
    # Where rounds begin, the wrong token is on the path and agreed; the next three are behind it.
    assert {matched for level, _, matched in replay(cascade, source, 0) if level == 1} == {0, 1}
    assert all(matched == run for level, run, matched in replay(cascade, source, 1) if level == 1)


@pytest.mark.parametrize(
    ("middle", "cure"),
    [
        (Exit("big", 6), "among --exits and --middles"),
        (Exit("draft", 4), "let an exit of big be that level, or give an acceptance model"),
    ],
    ids=str,
)
def test_what_can_be_done_about_a_middle_that_was_not_followed(middle: Exit, cure: str) -> None:
    """Recordings follow exits of the target only: a draft network as middle level is no matter of options."""
    exits = (Exit("draft", 2), middle, Exit("big", 24))
    prompt, off_path = Prompt("a", "a", "0" * 64, 3), OffPath.none(len(exits), sampled=False)
    labels = np.array([[1, 1, 0]] * 4, np.uint8)
    trace = AgreementTrace(NETWORKS, exits, labels, np.array([0, 4]), (prompt,), off_path, None, {})
    cascade = Cascade(tuple(Level(*exit_, verify_period=2 * k) for k, exit_ in enumerate(exits)), Bonus.ON_MISMATCH)
    with pytest.raises(InputError) as refused:
        ReplaySource(trace, cascade, SHAPES)
    assert f"wrong tokens of {middle}, which a middle level needs" in str(refused.value)
    assert cure in str(refused.value)


def test_agreement_is_the_share_of_equal_predictions() -> None:
    """The summary statistic that traces are read by."""
    predictions = recorded(np.random.default_rng(3), 500, 0.5)
    trace = trace_of(predictions)
    assert trace.agreement(1, 3) == np.mean(predictions[:, 1] == predictions[:, 3])
    assert trace.agreement(0, 2) == np.mean(predictions[:, 0] == predictions[:, 2])
