"""Two random networks whose exits agree often enough to make every kind of outcome, and random cascades on them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.llama import Llama
from hispec_sim.models.ranking import count_ranking
from hispec_sim.networks import NetworkSpec

VOCABULARY = 24


@cache
def networks() -> dict[str, Llama]:
    """`big` of four layers and `draft` of two; small steps from layer to layer, so that exits resemble one another."""
    torch.manual_seed(5)
    made = {}
    for name, n_layers in (("big", 4), ("draft", 2)):
        shape = NetworkSpec(name, n_layers, 32, 4, 2, 8, 48, VOCABULARY, True)
        network = Llama(LlamaConfig(shape, max_positions=160)).eval()
        with torch.no_grad():
            for path, parameter in network.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.1 if "output" in path or "down" in path else 0.35)
        network.token_ranking = count_ranking([7, 7, 3, 3, 20, 11], VOCABULARY, "a few tokens")
        made[name] = network.requires_grad_(False)
    with torch.no_grad():  # the draft is the target's lower half: it agrees with it now and then
        made["draft"].embedding.weight.copy_(made["big"].embedding.weight)
        for mine, theirs in zip(made["draft"].layers, made["big"].layers, strict=False):
            mine.load_state_dict(theirs.state_dict())
    return made


def random_cascade(rng: np.random.Generator, *, shortlists: bool = True, draft_first: bool = False) -> Cascade:
    """One to four levels over exits of both networks, each network's from shallow to deep, the networks in any order or
    the draft first; any periods, some with a shortlist, either bonus rule."""
    exits = [("draft", 1), ("draft", 2), ("big", 1), ("big", 2), ("big", 3)]
    n_lower = int(rng.integers(0, 4))
    places = rng.choice(len(exits), n_lower, replace=False).tolist()
    drawn = [exits[place] for place in (sorted(places) if draft_first else places)]
    rising = {name: iter(sorted(depth for network, depth in drawn if network == name)) for name, _ in exits}
    levels = [
        Level(name, next(rising[name]), verify_period=int(rng.integers(1, 9)) if k else 0)
        for k, (name, _) in enumerate(drawn)
    ]
    levels = [
        replace(level, shortlist=int(rng.integers(1, VOCABULARY + 1))) if shortlists and rng.random() < 0.3 else level
        for level in levels
    ]
    levels.append(Level("big", 4, verify_period=int(rng.integers(1, 17)) if levels else 0))
    return Cascade(tuple(levels), list(Bonus)[int(rng.integers(2))])


def autoregressive() -> Cascade:
    """The target alone."""
    return Cascade((Level("big", 4),))
