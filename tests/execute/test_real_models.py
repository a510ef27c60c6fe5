"""Real weights: whatever the cascade, the text is the target's own, and the simulator given the outcomes does the same
work. Random cascades of one to four levels on the shipped models, on held-out prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from test_lossless import NEW_TOKENS, Recorded, simulated_forwards

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Greedy
from hispec_sim.execute.decoder import Decoder
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.layouts import lay_out_for_cpu
from hispec_sim.models.llama import Llama
from hispec_sim.models.loading import load_model
from hispec_sim.scheduler import Grouping

torch.set_num_threads(1)
QUESTIONS = ("What are owls?", "Write a poem about rice.", "def fibonacci(n):", "List 3 facts about chess.", "Why is")


@dataclass(frozen=True)
class Real:
    """A network, prompts that it was not trained on, what it writes after each, and how far its logits move when the
    same tokens are pushed one by one or together."""

    network: Llama
    prompts: list[list[int]]
    texts: list[list[int]]
    numerical_difference: float


@cache
def real(name: str) -> Real:
    """Skips where the model is not installed."""
    try:
        model = load_model(name)
    except InputError as error:
        pytest.skip(str(error))
    network, encode = lay_out_for_cpu(model.network), model.tokenizer.encode
    if (model.source / "prompts.jsonl").is_file():
        lines = (model.source / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
        prompts = [encode(json.loads(line)["prompt"])[: 8 + place % 56] for place, line in enumerate(lines[::6])]
    else:
        prompts = [model.tokenizer.encode_chat([{"role": "user", "content": text}]) for text in QUESTIONS]
    plain = Decoder(Cascade((Level("big", n_layers(network)),)), {"big": network}, slots=1, max_tokens=120)
    texts, _ = plain.decode(prompts, NEW_TOKENS, new_chooser=lambda index: Greedy())
    return Real(network, prompts, texts, numerical_difference(network, prompts[0]))


def n_layers(network: Llama) -> int:
    return network.config.shape.n_layers


def numerical_difference(network: Llama, prompt: list[int]) -> float:
    """The largest difference between logits of a prompt pushed whole and pushed token by token."""
    cached = CachedNetwork(network, slots=1, max_tokens=len(prompt), exits=())
    depth = n_layers(network)
    whole = cached.forward(0, depth, [Piece(0, 0, len(prompt), len(prompt), prompt)])
    rows = [cached.forward(0, depth, [Piece(0, place, 1, 1, [token])]) for place, token in enumerate(prompt)]
    assert whole is not None
    return float((whole - torch.cat([row for row in rows if row is not None])).abs().max())


def random_cascade(rng: np.random.Generator, network: Llama) -> Cascade:
    """One to four levels, draft length 1 to 8, verify periods 1 to 16, either bonus rule; at any exits, or, every other
    time, at those with trained heads where there are some."""
    depth = n_layers(network)
    exits = sorted(map(int, network.exit_heads))
    if not exits or rng.random() < 0.5:
        exits = list(range(1, depth))
    lower = sorted(rng.choice(exits, min(len(exits), int(rng.integers(0, 4))), replace=False).tolist())
    periods = [0, int(rng.integers(1, 9)), *rng.integers(1, 17, 2).tolist()]
    levels = [Level("big", exit_layer, periods[k]) for k, exit_layer in enumerate([*lower, depth])]
    return Cascade(tuple(levels), list(Bonus)[int(rng.integers(2))])


def is_a_tie(case: Real, prompt: list[int], ours: list[int], theirs: list[int]) -> bool:
    """Whether the first difference stands where the two best logits are closer than rounding moves them."""
    place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    with torch.inference_mode():
        best = case.network(torch.tensor([[*prompt, *theirs[:place]]]))[0, -1].topk(2)
    gap = float(best.values[0] - best.values[1])
    # Rounding may lift one of the two logits by the difference and lower the other by as much.
    return gap < 2 * case.numerical_difference and ours[place] in best.indices.tolist()


def check_random_cascades(name: str, seed: int, cases: int) -> int:
    """The target's text token for token at batch 1 and 4, and the same forwards in the simulator; returns the ties."""
    case, rng, ties = real(name), np.random.default_rng(seed), 0
    assert case.numerical_difference < 1e-3
    for number in range(cases):
        cascade, slots = random_cascade(rng, case.network), (1, 4)[number % 2]
        chosen = rng.choice(len(case.prompts), slots, replace=False)
        prompts = [case.prompts[i] for i in chosen]
        decoder = Decoder(
            cascade, {"big": case.network}, slots=slots, max_tokens=120, grouping=list(Grouping)[number // 2 % 2]
        )
        outputs, done = decoder.decode(prompts, NEW_TOKENS, new_chooser=lambda index: Greedy())
        for i, ours, sequence in zip(chosen, outputs, done.sequences, strict=True):
            if ours != case.texts[i]:
                assert is_a_tie(case, case.prompts[i], ours, case.texts[i]), cascade
                ties += 1
            assert simulated_forwards(cascade, len(case.prompts[i]), Recorded(sequence)) == sequence.forwards
    return ties


@pytest.mark.parametrize("tenth", range(10))
def test_two_hundred_random_cascades_on_the_reference_model(tenth: int) -> None:
    """Twenty a time."""
    assert check_random_cascades("reference", tenth, 20) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("twentieth", range(20))
def test_two_thousand_random_cascades_on_the_reference_model(twentieth: int) -> None:
    """A hundred a time."""
    ties = check_random_cascades("reference", 1000 + twentieth, 100)
    print(f"{ties} ties in 100 cascades")
    assert ties <= 3


def test_random_cascades_on_smollm2() -> None:
    """A few, at its exit heads and at exits without."""
    assert check_random_cascades("smollm2", 0, 4) == 0


@pytest.mark.slow
@pytest.mark.parametrize("fifth", range(5))
def test_two_hundred_random_cascades_on_smollm2(fifth: int) -> None:
    """Forty a time."""
    ties = check_random_cascades("smollm2", 1000 + fifth, 40)
    print(f"{ties} ties in 40 cascades")
    assert ties <= 2
