"""With sampling, the shipped models' text keeps the target's distribution: first tokens and bigrams by chi-square.

What the target would write is computed from its own logits on whole texts, by no cascade. Cells are the likely first
tokens and the likely tokens behind each of them; all others of a kind are one cell.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from test_real_models import real
from test_sampling import chi_square_z, sampling

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.prompt_caches import PromptCaches
from hispec_sim.models.picking import distributions_of

TEMPERATURE, TOP_P = 0.8, 0.95
OTHERS = -1
FIRST, SECOND = 12, 8
"""How many likely tokens have cells of their own."""

NEW_TOKENS = 4

Cells = dict[tuple[int, int], float]

REFERENCE = {
    f"{len(levels)} levels, {bonus}": Cascade(tuple(Level("big", *level) for level in levels), bonus)
    for levels in (((2, 0), (40, 3)), ((2, 0), (10, 2), (40, 3)), ((1, 0), (4, 1), (12, 2), (40, 3)))
    for bonus in Bonus
}
SMOLLM2 = {
    f"{len(levels)} levels, {bonus}": Cascade(tuple(Level("big", *level) for level in levels), bonus)
    for levels in (((4, 0), (30, 2)), ((4, 0), (8, 1), (30, 2)))
    for bonus in Bonus
}


@cache
def exact(name: str) -> tuple[tuple[int, ...], Cells]:
    """A held-out prompt after which much is possible, and the probability of every cell."""
    case = real(name)
    with torch.inference_mode():

        def after(texts: list[list[int]]) -> torch.Tensor:
            return distributions_of(case.network(torch.tensor(texts))[:, -1], TEMPERATURE, TOP_P).double()

        openings = [prompt[:8] for prompt in case.prompts]
        firsts = [after([opening])[0] for opening in openings]
        entropies = [float(-(p * p.clamp(min=1e-12).log()).sum()) for p in firsts]
        best = int(np.argmax(entropies))
        opening, first = openings[best], firsts[best]
        likely = [int(token) for token in first.topk(FIRST).indices if first[token] > 0]
        seconds = after([[*opening, token] for token in likely])
    cells: Cells = {(OTHERS, OTHERS): max(0.0, 1 - float(first[likely].sum()))}
    for token, second in zip(likely, seconds, strict=True):
        next_ = [int(each) for each in second.topk(SECOND).indices if second[each] > 0]
        cells |= {(token, each): float(first[token] * second[each]) for each in next_}
        cells[token, OTHERS] = float(first[token]) * max(0.0, 1 - float(second[next_].sum()))
    return tuple(opening), cells


def cell_of(cells: Cells, first: int, second: int) -> tuple[int, int]:
    if (first, second) in cells:
        return first, second
    return (first, OTHERS) if (first, OTHERS) in cells else (OTHERS, OTHERS)


def z_scores(name: str, cascade: Cascade, samples: int) -> tuple[float, float]:
    """How far bigrams and first tokens are from the target's, in standard deviations."""
    opening, cells = exact(name)
    network = real(name).network
    decoder = Decoder(cascade, {"big": network}, slots=64, max_tokens=len(opening) + NEW_TOKENS)
    outputs, _ = decoder.decode(
        [opening] * samples,
        NEW_TOKENS,
        new_chooser=lambda index: sampling(7000 + index, TEMPERATURE, TOP_P),
        prefill_first=True,  # so that the first token is drafted too, and not the target's own
        prompt_caches={"big": PromptCaches(network, [level.exit_layer for level in cascade.levels], keep=1)},
    )
    counts = Counter(cell_of(cells, first, second) for first, second, *_ in outputs)
    seen = np.array([counts[cell] for cell in cells], float)
    expected = np.array(list(cells.values()))
    expected = np.where(expected < 1e-9, 0, expected)  # outside the nucleus; must be empty
    firsts = sorted({first for first, _ in cells})
    of_first = np.array([[first == mine for first, _ in cells] for mine in firsts], float)
    return chi_square_z(seen, expected / expected.sum()), chi_square_z(of_first @ seen, of_first @ expected)


@pytest.mark.parametrize("shape", ["3 levels, always", "4 levels, on_mismatch"])
def test_reference_model_keeps_its_distribution(shape: str) -> None:
    """300 texts, the same cells as at length."""
    assert max(z_scores("reference", REFERENCE[shape], 300)) < 4


@pytest.mark.slow
@pytest.mark.parametrize("shape", REFERENCE)
def test_reference_model_keeps_its_distribution_at_length(shape: str) -> None:
    """50,000 texts."""
    assert max(z_scores("reference", REFERENCE[shape], 50_000)) < 4


@pytest.mark.slow
@pytest.mark.parametrize("shape", SMOLLM2)
def test_smollm2_keeps_its_distribution(shape: str) -> None:
    """2,000 texts through its exit heads."""
    assert max(z_scores("smollm2", SMOLLM2[shape], 2000)) < 4


def test_the_statistic_sees_an_exit_in_the_targets_place() -> None:
    """The test can fail: what an early exit writes is not what the target writes."""
    with pytest.raises(AssertionError):
        assert max(z_scores("reference", Cascade((Level("big", 2),)), 300)) < 6
