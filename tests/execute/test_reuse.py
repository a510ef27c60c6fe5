"""A decoder used again decodes as a fresh one: what earlier prompts left in its caches is never seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_networks import VOCABULARY, networks, random_cascade

from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.generate import Settings, generate, generate_with
from hispec_sim.models.exits import Kind, attach, new_head


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_decoder_used_again_decodes_as_a_fresh_one(temperature: float, heads: bool) -> None:
    """Prompts of many lengths in turn, the first twice, over random cascades: tokens, forwards and outcomes."""
    rng, known = np.random.default_rng(4), networks()
    torch.manual_seed(0)
    try:
        attach(known["big"], {exit_: new_head(Kind.BLOCK, known["big"]) for exit_ in (1, 2)} if heads else {})
        for _ in range(3):
            cascade = random_cascade(rng)
            used = Decoder(cascade, known, slots=1, max_tokens=60)
            prompts = [rng.integers(0, VOCABULARY, int(rng.integers(1, 40))).tolist() for _ in range(3)]
            for number, prompt in enumerate([*prompts, *prompts[:1]]):
                settings = Settings(10, (), temperature, 1.0, number % 3)
                again, fresh = generate_with(used, prompt, settings), generate(cascade, known, prompt, settings)
                assert again.token_ids == fresh.token_ids
                assert again.record.sequences == fresh.record.sequences
    finally:
        attach(known["big"], {})
