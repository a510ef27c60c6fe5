"""Agreement formulas on hand-made numbers, and the evaluation of a small network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_run import tiny_recipe

from hispec_sim.errors import InputError
from hispec_sim.models.llama import Llama
from hispec_sim.models.train.agreement import acceptance, looped, pair, share
from hispec_sim.models.train.evaluate import Plan, evaluate, read, write
from hispec_sim.models.train.span import new_network


@pytest.fixture(scope="module")
def network() -> Llama:
    """Random weights."""
    return new_network(tiny_recipe()).requires_grad_(False)


def test_shares_and_their_errors() -> None:
    """Three texts of four positions; the error is that of the mean of the texts' shares when all weigh the same."""
    hits = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], bool)
    found = share(hits)
    assert found.value == pytest.approx(7 / 12)
    assert found.positions == 12
    assert found.error == pytest.approx(np.std([1, 0.25, 0.5], ddof=1) / math.sqrt(3))
    among = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    assert share(hits, among).value == pytest.approx(2 / 3)
    assert share(hits, among).positions == 3
    nothing = share(hits, np.zeros_like(hits))
    assert math.isnan(nothing.value)
    assert nothing.positions == 0


def test_pairs_by_hand() -> None:
    """Six positions: draft and middle agree on four, three of which the full network confirms, and one of the rest."""
    predictions = {
        1: np.array([[5, 5, 5, 5, 1, 1]]),
        4: np.array([[5, 5, 5, 5, 2, 2]]),
        9: np.array([[5, 5, 5, 7, 2, 1]]),
    }
    found = pair(predictions, 1, 4, 9)
    assert found.same.value == pytest.approx(4 / 6)
    assert found.full_if_same.value == pytest.approx(3 / 4)
    assert found.full_if_differ.value == pytest.approx(1 / 2)
    assert found.full_if_independent == pytest.approx(4 / 6)


def test_looped_positions() -> None:
    """A run of three is a repetition at its last token, from its second time on."""
    text = np.array([[1, 2, 3, 4, 1, 2, 3, 4, 9], [1, 2, 3, 5, 6, 7, 8, 9, 10]])
    assert looped(text, 0, length=3).tolist() == [[False] * 6 + [True, True, False], [False] * 9]
    assert looped(text, 7, length=3).tolist() == [[True, False], [False, False]]


def test_acceptance_is_the_overlap() -> None:
    """Leviathan's corollary 3.6."""
    target, draft = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), np.array([[0.1, 0.6, 0.3], [0.2, 0.3, 0.5]])
    assert acceptance(target, draft) == pytest.approx([0.6, 1.0])


def test_readings_of_hand_made_logits(network: Llama) -> None:
    """What is read at a position is the prediction of that token from those before it."""
    tokens = np.random.default_rng(0).integers(0, 280, (3, 12))
    reading = read(network, tokens, 5, [2, 6], 1.0)
    logits = network(torch.from_numpy(tokens[:, :-1]))[:, 4:]
    assert np.array_equal(reading.predicted[6], logits.argmax(-1).numpy())
    expected = -torch.log_softmax(logits, -1).gather(-1, torch.from_numpy(tokens[:, 5:, None])).mean()
    assert reading.loss[6] == pytest.approx(expected.item(), rel=1e-4)
    assert reading.accepted[6] == pytest.approx(np.ones((3, 7)), abs=1e-5)
    assert reading.accepted[2].max() < 1


def test_greedy_text_is_the_networks_own_choice(network: Llama) -> None:
    """Written over a cache, read in one pass."""
    prompts = np.random.default_rng(1).integers(0, 280, (4, 6))
    written = write(network, prompts, 10)
    assert np.array_equal(written[:, :6], prompts)
    assert np.array_equal(read(network, written, 6, [6], None).predicted[6], written[:, 6:])


def test_sampling_follows_the_distribution(network: Llama) -> None:
    """The first token of 2000 samples of one prompt, by chi-square over the likely tokens; the same seed repeats."""
    prompt = np.repeat(np.array([[3, 1, 4]]), 2000, 0)
    drawn = write(network, prompt, 1, temperature=0.5, rng=np.random.default_rng(5))[:, 3]
    assert np.array_equal(drawn, write(network, prompt, 1, temperature=0.5, rng=np.random.default_rng(5))[:, 3])
    p = torch.softmax(network(torch.from_numpy(prompt[:1]))[0, -1].double() / 0.5, -1).numpy()
    likely = np.argsort(p)[-30:]
    expected = np.append(p[likely], 1 - p[likely].sum()) * 2000
    counts = np.array([(drawn == token).sum() for token in likely])
    counts = np.append(counts, 2000 - counts.sum())
    assert ((counts - expected) ** 2 / expected).sum() < 60  # 30 degrees of freedom: beyond the 99.9 % point


def test_an_evaluation_has_every_number(network: Llama) -> None:
    """Shares lie between 0 and 1 and fit one another."""
    stream = np.random.default_rng(2).integers(0, 280, 3000).astype(np.uint16)
    plan = Plan(prompts=5, prompt_tokens=8, new_tokens=12)
    found = evaluate(network, stream, [4, 1], [(1, 4)], plan)
    assert [row.exit_layer for row in found.exits] == [1, 4]
    row = found.exits[1]
    parts = sum(s.value * s.positions for s in (row.greedy_looped, row.greedy_new) if s.positions)
    assert parts / 60 == pytest.approx(row.greedy.value)
    assert row.greedy.positions == row.sampled.positions == row.accepted.positions == 60
    one = found.pairs[0]
    whole = one.same.value * one.full_if_same.value if one.same.value else 0.0
    whole += (1 - one.same.value) * one.full_if_differ.value if one.same.value < 1 else 0.0
    assert whole == pytest.approx(row.greedy.value)
    assert one.full_if_independent == pytest.approx(row.greedy.value)
    with pytest.raises(InputError, match="21 are needed"):
        evaluate(network, stream[:10], [1], [], plan)
