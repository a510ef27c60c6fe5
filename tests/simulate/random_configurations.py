"""Random configurations of 1 to 4 levels for comparing the two engines, with outcomes from models and from traces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.models import AcceptanceModel, Correlated, Independent, LevelAgreement, PerPosition
from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.trace import UNREAD, AgreementTrace, Exit, OffPath, Prompt, label_predictions
from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.networks import NetworkSpec
from hispec_sim.simulate.configuration import Configuration

NETWORKS = (NetworkSpec("draft", 4, 64, 4, 2, 16, 96, 4), NetworkSpec("big", 24, 128, 4, 2, 32, 96, 4))
EXITS = (Exit("draft", 2), Exit("draft", 4), Exit("big", 6), Exit("big", 12), Exit("big", 24))


@dataclass(frozen=True, slots=True)
class TellingCost:
    """A forward whose milliseconds tell all that it was asked with: no two different requests cost the same."""

    scale: float = 1.0

    pads = False

    def forward_ms(
        self,
        *,
        first_layer: int,
        last_layer: int,
        batch: int,
        tokens: int,
        logits: int,
        context: NDArray[np.int64],
        shortlist: int | None = None,
        in_row: int | None = None,
    ) -> NDArray[np.float64]:
        asked = (last_layer - first_layer) + tokens / 7 + logits / 11 + (shortlist or 0) / 13 + first_layer / 17
        asked -= 0.3 / (in_row + 1) if in_row else 0.0
        return np.asarray(self.scale * (asked + batch) * (1 + np.sqrt(context) / 19), np.float64)


COSTS = {"draft": TellingCost(), "big": TellingCost(3.0)}
OTHER_COSTS = {"draft": TellingCost(2.0), "big": TellingCost(5.0)}


def random_cascade(rng: np.random.Generator, shortlists: bool = True) -> Cascade:
    """1 to 4 levels on one or two networks, in any order of networks that a cascade may have."""
    n = int(rng.integers(1, 5))
    exits = [EXITS[i] for i in sorted(rng.choice(len(EXITS) - 1, n - 1, replace=False))] + [EXITS[-1]]
    levels = [
        Level(
            *exit_,
            verify_period=0 if k == 0 else int(rng.integers(1, 7)),
            shortlist=int(rng.integers(1, 5)) if shortlists and k < n - 1 and rng.random() < 0.3 else None,
        )
        for k, exit_ in enumerate(exits)
    ]
    return Cascade(tuple(levels), Bonus.ALWAYS if rng.random() < 0.5 else Bonus.ON_MISMATCH)


def random_model(rng: np.random.Generator, n_levels: int) -> AcceptanceModel:
    """Any of the acceptance models, easy or hard, in runs or not."""
    kind, clustering, verifiers = int(rng.integers(3)), float(rng.choice([0, 0.6])), range(n_levels - 1)
    if kind == 0:
        return Independent(tuple(rng.random(n_levels - 1)), clustering)
    if kind == 1:
        return PerPosition(tuple(tuple(rng.random(rng.integers(1, 6))) for _ in verifiers), clustering)
    return Correlated(tuple(LevelAgreement(*rng.random(3)) for _ in verifiers), clustering)


def random_trace(rng: np.random.Generator, piece_tokens: int) -> AgreementTrace:
    """Three sequences; behind six of ten wrong tokens of any exit, a continuation of so many tokens, of some two."""
    n, starts = len(EXITS), np.array([0, 150, 400, 600])
    predictions = rng.integers(0, 4, (600, n))
    predictions = np.where(rng.random((600, n)) < rng.uniform(0.3, 0.9), predictions[:, -1:], predictions)
    labels = label_predictions(predictions)
    position, column = np.nonzero(labels[:, :-1])
    chosen = rng.permutation(np.flatnonzero(rng.random(len(position)) < 0.6))
    chosen = np.concatenate((chosen, chosen[::5]))
    position, column = position[chosen], column[chosen]
    sequence = np.searchsorted(starts, position, side="right") - 1
    at = np.stack((sequence, position - starts[sequence], column), axis=1).astype(np.int32)
    rows = rng.integers(0, 3, (len(at), piece_tokens, n)).astype(np.uint8)
    for i, own in enumerate(column):
        rows[i, :, own], rows[i, :, own + 1 :] = 0, UNREAD
    prompts = tuple(Prompt(name, name, "0" * 64, 3) for name in "abc")
    return AgreementTrace(NETWORKS, EXITS, labels, starts, prompts, OffPath(at, rows), None, {"command": "test"})


def random_configurations(seed: int, modelled: int, replayed: int, most_tokens: int) -> list[Configuration]:
    """So many with outcomes from models, and so many from traces with long and short continuations."""
    rng = np.random.default_rng(seed)
    traces = [random_trace(rng, piece_tokens) for piece_tokens in (2, 3, 10)]
    shapes = {network.name: network for network in NETWORKS}
    found = []
    for i in range(modelled + replayed):
        cascade = random_cascade(rng, shortlists=i < modelled)
        outcomes: AcceptanceModel | ReplaySource
        if i < modelled:
            outcomes = random_model(rng, len(cascade.levels))
        else:
            outcomes = ReplaySource(traces[i % 3], cascade, shapes)
        found.append(
            Configuration(
                cascade,
                outcomes,
                COSTS if rng.random() < 0.7 else OTHER_COSTS,
                prompt_tokens=int(rng.integers(1, 40)),
                output_tokens=int(rng.integers(1, most_tokens)),
                requests=int(rng.integers(1, 6)),
                seed=int(rng.integers(5)),
                repetition=int(rng.integers(3)),
            )
        )
    return found
