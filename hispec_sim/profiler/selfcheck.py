"""How well a profile predicts what it was not fitted on: spans cut elsewhere, and whole decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from hispec_sim.cascade import Cascade
from hispec_sim.execute.choosing import Greedy
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.record import Record
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.latency.profile import LatencyProfile
from hispec_sim.models.llama import Llama
from hispec_sim.profiler.bench import NetworkBench
from hispec_sim.profiler.passes import Pass, Shot


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was predicted: milliseconds, predicted and measured."""

    what: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_ms / self.measured_ms - 1


def check_spans(profile: LatencyProfile, network: Llama, *, points: int, repeats: int, seed: int = 0) -> list[Check]:
    """Passes cut at a random layer, at random points within the profile's grid, against their medians."""
    table = profile.table("layer", 1)
    assert table is not None
    rng = np.random.default_rng(seed)
    n_layers = profile.network.n_layers
    shots: list[Pass] = []
    for _ in range(points):
        batch = int(rng.choice(table.batch))
        query_tokens = int(rng.choice(table.query_tokens[table.query_tokens <= 8]))
        context = int(rng.integers(int(table.context[0]), int(table.context[-1]) + 1))
        cut = int(rng.integers(1, n_layers))
        shots.append(
            (
                Shot(0, cut, batch, query_tokens, context, read_out=False),
                Shot(cut, n_layers, batch, query_tokens, context, read_out=True),
            )
        )
    cuts = sorted({each[0].last_layer for each in shots})
    bench = NetworkBench(network, slots=int(table.batch[-1]), max_tokens=int(table.context[-1]), exits=cuts)
    times: list[list[list[float]]] = [[] for _ in shots]
    for _ in range(repeats):
        for i in rng.permutation(len(shots)):
            times[i].append(bench.run_pass(shots[i]))
    cost = NetworkCost(profile, tensor_parallel=1)
    outside = _outside_ms(cost, profile)
    found = []
    for each, runs in zip(shots, times, strict=True):
        for place, shot in enumerate(each):
            predicted = _price(cost, shot) - outside(shot)
            measured = median(run[place] for run in runs)
            found.append(Check(_name(shot), predicted, measured))
    return found


def check_decoding(
    profile: LatencyProfile,
    network: Llama,
    cascades: Mapping[str, Cascade],
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    repeats: int,
) -> list[Check]:
    """Whole decoding of prompts, one by one, against the sum of its forwards' prices, prefill left out."""
    cost = NetworkCost(profile, tensor_parallel=1)
    longest = max(map(len, prompts)) + new_tokens
    decoders = {name: Decoder(each, {profile.network.name: network}, slots=1, max_tokens=longest)
                for name, each in cascades.items()}  # fmt: skip
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for i, prompt in enumerate(prompts):
            for name, decoder in decoders.items():
                (output,), record = decoder.decode(
                    [prompt], new_tokens, new_chooser=lambda _: Greedy(), prefill_first=True
                )
                found.setdefault((name, i), []).append(_compare(cost, record, prompt, len(output)))
    return [Check(f"{name}, prompt {i + 1}", runs[0][0], median(real for _, real in runs))
            for (name, i), runs in found.items()]  # fmt: skip


def _compare(cost: NetworkCost, record: Record, prompt: Sequence[int], new_tokens: int) -> tuple[float, float]:
    """Predicted and measured milliseconds of one sequence's decoding."""
    (sequence,) = record.sequences
    predicted, before = 0.0, None
    for i, forward in enumerate(sequence.forwards):
        layers = (forward.first_layer, forward.last_layer)
        predicted += float(
            cost.forward_ms(
                first_layer=forward.first_layer,
                last_layer=forward.last_layer,
                batch=1,
                tokens=forward.tokens,
                logits=forward.logits,
                context=len(prompt) + new_tokens * i / len(sequence.forwards),  # the text grows evenly enough
                shortlist=forward.shortlist,
                repeat=layers == before,
            )
        )
        before = layers
    return predicted, record.decode_ms


def _outside_ms(cost: NetworkCost, profile: LatencyProfile) -> Callable[[Shot], float]:
    """What the decode loop takes besides a forward, which a shot does not have."""

    def ms(shot: Shot) -> float:
        parts = cost.parts_ms(
            first_layer=0,
            last_layer=0,
            batch=shot.batch,
            tokens=shot.batch * shot.query_tokens,
            logits=shot.batch * shot.query_tokens if shot.read_out else 0,
            context=float(shot.context),
        )
        return float(parts["host"])

    return ms


def _price(cost: NetworkCost, shot: Shot) -> float:
    tokens = shot.batch * shot.query_tokens
    return float(
        cost.forward_ms(
            first_layer=shot.first_layer,
            last_layer=shot.last_layer,
            batch=shot.batch,
            tokens=tokens,
            logits=tokens if shot.read_out else 0,
            context=shot.context,
        )
    )


def _name(shot: Shot) -> str:
    return (
        f"({shot.first_layer}, {shot.last_layer}], batch {shot.batch}, {shot.query_tokens} tokens, "
        f"context {shot.context}"
    )
