"""With sampling, the text's distribution is the target's: exactly known for tiny networks, tested by chi-square."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from tiny_networks import VOCABULARY, autoregressive, networks

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Sampling, Token
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.generate import Settings
from hispec_sim.models.picking import COLDEST, distributions_of

torch.set_num_threads(1)
PROMPT = [3, 1, 4]
SHAPES = {
    "autoregressive": autoregressive(),
    "separate draft": Cascade((Level("draft", 2), Level("big", 4, 3)), Bonus.ALWAYS),
    "self-speculation": Cascade((Level("big", 2), Level("big", 4, 2)), Bonus.ALWAYS),
    "hispec": Cascade((Level("big", 1), Level("big", 2, 2), Level("big", 4, 3)), Bonus.ON_MISMATCH),
    "hispec with every bonus": Cascade((Level("big", 1), Level("big", 2, 2), Level("big", 4, 3)), Bonus.ALWAYS),
    "draft and exit": Cascade((Level("draft", 2), Level("big", 3, 2), Level("big", 4, 2)), Bonus.ON_MISMATCH),
    "shortlists": Cascade((Level("draft", 2, shortlist=6), Level("big", 3, 2, shortlist=15), Level("big", 4, 2))),
    "four levels": Cascade((Level("draft", 1), Level("draft", 2, 1), Level("big", 2, 2), Level("big", 4, 3))),
}


def sampling(seed: int, temperature: float, top_p: float) -> Sampling:
    return Sampling(temperature, top_p, np.random.default_rng(seed))


def exact_bigrams(temperature: float, top_p: float) -> np.ndarray:
    """P(first token, second token) of the target alone, shape (vocabulary, vocabulary)."""
    with torch.inference_mode():
        first = distributions_of(networks()["big"](torch.tensor([PROMPT]))[0, -1:], temperature, top_p)[0]
        texts = torch.tensor([[*PROMPT, token] for token in range(VOCABULARY)])
        second = distributions_of(networks()["big"](texts)[:, -1], temperature, top_p)
    joint: np.ndarray = (first[:, None] * second).double().numpy()
    return joint / joint.sum()


def chi_square_z(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Pearson's statistic in standard deviations (Wilson and Hilferty's cube root); rare cells are pooled."""
    n, order = counts.sum(), np.argsort(probabilities.ravel())
    expected, seen = (n * probabilities.ravel())[order], counts.ravel()[order]
    assert seen[expected == 0].sum() == 0, "a token outside the target's support was sampled"
    rare = np.cumsum(expected) < 10
    expected = np.append(expected[~rare], expected[rare].sum())
    seen = np.append(seen[~rare], seen[rare].sum())
    expected, seen = expected[expected > 0], seen[expected > 0]
    freedom = len(expected) - 1
    ratio = float(((seen - expected) ** 2 / expected).sum()) / freedom
    return (ratio ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def sampled_bigrams(cascade: Cascade, samples: int, temperature: float, top_p: float) -> np.ndarray:
    """How often each pair of first tokens came out."""
    decoder = Decoder(cascade, networks(), slots=32, max_tokens=8)
    outputs, _ = decoder.decode(
        [PROMPT] * samples, 4, new_chooser=lambda index: sampling(1000 + index, temperature, top_p)
    )
    counts = np.zeros((VOCABULARY, VOCABULARY))
    for first, second, *_ in outputs:
        counts[first, second] += 1
    return counts


def assert_the_targets_distribution(shape: str, samples: int, temperature: float, top_p: float) -> None:
    probabilities = exact_bigrams(temperature, top_p)
    counts = sampled_bigrams(SHAPES[shape], samples, temperature, top_p)
    assert chi_square_z(counts.sum(axis=1), probabilities.sum(axis=1)) < 4
    assert chi_square_z(counts, probabilities) < 4


@pytest.mark.parametrize("shape", SHAPES)
def test_distribution_is_the_targets(shape: str) -> None:
    """First tokens and bigrams of 1,500 texts."""
    assert_the_targets_distribution(shape, 1500, 0.9, 1.0)


def test_top_p_cuts_every_level_alike() -> None:
    """With a nucleus, nothing outside the target's is ever sampled."""
    assert_the_targets_distribution("hispec", 1500, 1.0, 0.8)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_distribution_is_the_targets_at_length(shape: str) -> None:
    """First tokens and bigrams of 50,000 texts."""
    assert_the_targets_distribution(shape, 50_000, 0.8, 0.95)


def test_chi_square_sees_a_wrong_distribution() -> None:
    """The test can fail: samples of an exit are not samples of the target."""
    wrong = Cascade((Level("draft", 2),))
    counts = sampled_bigrams(wrong, 1500, 0.9, 1.0)
    assert chi_square_z(counts + 1e-9, exact_bigrams(0.9, 1.0)) > 10


def test_a_level_accepts_with_the_ratio_of_probabilities() -> None:
    """min(1, p/q) for a token of probability q under its proposer; rejections are replaced by (p - q)+."""
    q, logits = np.array([0.6, 0.3, 0.1], np.float32), torch.tensor([[0.3, 0.3, 0.4]]).log()
    verdicts = []
    for seed in range(4000):
        judge = sampling(seed, 1.0, 1.0)
        verdicts.append(judge.judge(1, logits, [Token(0, 0, q)], bonus=False))
    accepted = np.mean([verdict.matched for verdict in verdicts])
    assert accepted == pytest.approx(0.5, abs=0.03)
    assert {verdict.own.token_id for verdict in verdicts if verdict.own} == {2}


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, 1.1)]
)
def test_impossible_settings_are_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(InputError, match=r"temperature|top_p"):
        sampling(0, temperature, top_p)


@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [(-1.0, 1.0), (float("nan"), 1.0), (math.inf, 1.0), (COLDEST / 2, 1.0), (0.0, 0.0), (0.0, 1.1), (0.0, math.nan)],
)
def test_impossible_settings_of_a_decoding_are_refused(temperature: float, top_p: float) -> None:
    """Those that greedy decoding would not look at too."""
    with pytest.raises(InputError, match=r"temperature|top_p"):
        Settings(1, (), temperature, top_p)


def test_the_coldest_temperature_still_draws() -> None:
    """Of large logits too: the likeliest token."""
    logits = torch.tensor([[1e4, -3e4, 1.1e4]])
    settings = Settings(1, (), COLDEST, 0.9)
    verdict = settings.chooser().judge(0, logits, [], bonus=True)
    assert verdict.own is not None
    assert verdict.own.token_id == 2


@pytest.mark.parametrize("heat", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_a_nucleus_is_the_smallest_set_that_holds_its_share(heat: float, top_p: float) -> None:
    """Whether it lies among the few likeliest of a large vocabulary or not."""
    torch.manual_seed(2)
    logits = 3 * torch.randn(3, 2000)
    kept = distributions_of(logits, heat, top_p)
    for row, whole in zip(kept.double(), torch.softmax(logits.double() / heat, dim=-1), strict=True):
        size = int((row > 0).sum())
        inside, least = whole[row > 0].sum(), whole[row > 0].min()
        assert whole[row == 0].max() <= least if size < len(whole) else True
        assert inside >= top_p - 1e-5
        assert inside - least < top_p + 1e-5
        assert torch.allclose(row, torch.where(row > 0, whole / inside, 0.0), atol=1e-6)


def test_a_rejection_by_rounding_alone_still_has_a_token() -> None:
    """p and q differ by a last digit at the token, and nowhere else."""
    p = torch.softmax(torch.tensor([[0.1, 0.2]]), dim=-1)[0]
    q = p.numpy().copy()
    q[1] = np.nextafter(q[1], np.float32(1))
    judge = Sampling(1.0, 1.0, cast("np.random.Generator", SimpleNamespace(random=lambda: 1 - 2**-30)))
    verdict = judge.judge(1, torch.tensor([[0.1, 0.2]]), [Token(1, 0, q)], bonus=False)
    assert verdict.matched == 0
    assert verdict.own is not None
    assert verdict.own.token_id < 2
