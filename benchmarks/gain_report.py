"""Times of contenders on the same prompts, and what they say about which is faster."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gain_search import name_of
from measuring import spread
from numpy.typing import NDArray

from hispec_sim.cascade import Cascade
from hispec_sim.execute.generate import Generation
from hispec_sim.models.llama import Llama

RESAMPLES = 10_000
TIE = 1e-3
"""Logits closer than this can change places by rounding, which differs between one token and several at once."""


@dataclass(slots=True)
class Contender:
    """A way of decoding, and its runs of each prompt, one per round."""

    name: str
    cascade: Cascade
    runs: dict[int, list[Generation]] = field(default_factory=dict)

    def add(self, prompt: int, generation: Generation) -> None:
        """Keep a run of a prompt."""
        self.runs.setdefault(prompt, []).append(generation)

    def ms_per_token(self, rounds: int) -> NDArray[np.float64]:
        """Shape (prompts, rounds)."""
        return np.array([[1000 / run.tokens_per_s for run in runs[:rounds]] for _, runs in sorted(self.runs.items())])

    def facts(self, rounds: int) -> dict[str, Any]:
        """What describes its decoding, over all runs of finished rounds."""
        runs = [run for each in self.runs.values() for run in each[:rounds]]
        wall_ms = sum(run.record.wall_ms for run in runs)
        matched: dict[int, float | None] = {}
        for level in range(1, self.cascade.target + 1):
            pairs = [(n, m) for run in runs for s in run.record.sequences for k, n, m in s.verified if k == level]
            matched[level] = sum(m for _, m in pairs) / sum(n for n, _ in pairs) if pairs else None
        return {
            "cascade": name_of(self.cascade),
            "tokens_per_s": 1000 * sum(len(run.token_ids) for run in runs) / wall_ms,
            "tokens_per_target_pass": statistics.mean(run.tokens_per_target_pass(self.cascade) for run in runs),
            "matched_per_drafted": matched,
            "outside_forwards": 1 - sum(run.record.forward_ms for run in runs) / wall_ms,
            "ms_per_token": self.ms_per_token(rounds).tolist(),
        }


def compare(contenders: Sequence[Contender], rounds: int, seed: int) -> dict[str, Any]:
    """Every contender's figures, and for each pair (slower first) how many times as fast the later one is.

    A prompt's ratio is the median over rounds; the interval is of the geometric mean over prompts.
    """
    if rounds < 1:
        return {"rounds": 0}
    times = {contender.name: contender.ms_per_token(rounds) for contender in contenders}
    ratios = {}
    for i, slower in enumerate(contenders):
        for faster in contenders[i + 1 :]:
            per_prompt = np.median(times[slower.name] / times[faster.name], axis=1)
            mean, low, high = geometric_mean(per_prompt, seed)
            ratios[f"{faster.name} over {slower.name}"] = {
                "geometric_mean": mean, "interval_95": [low, high], "per_prompt": per_prompt.tolist(),
            }  # fmt: skip
    return {"rounds": rounds, "contenders": {c.name: c.facts(rounds) for c in contenders}, "ratios": ratios}


def geometric_mean(ratios: NDArray[np.float64], seed: int) -> tuple[float, float, float]:
    """Geometric mean over prompts with its 95 % bootstrap interval (percentiles of resampled prompts)."""
    logs = np.log(ratios)
    drawn = np.random.default_rng(seed).integers(len(logs), size=(RESAMPLES, len(logs)))
    low, high = np.exp(np.quantile(logs[drawn].mean(axis=1), [0.025, 0.975]))
    return float(np.exp(logs.mean())), float(low), float(high)


def print_comparison(contenders: Sequence[Contender], comparison: dict[str, Any], rounds: int) -> None:
    """The tables."""
    if rounds < 1:
        print("no round was finished")
        return
    print(f"\non {len(contenders[0].runs)} test prompts, {rounds} round(s); tokens/s with the spread over runs")
    for contender in contenders:
        facts = comparison["contenders"][contender.name]
        speeds = (1000 / contender.ms_per_token(rounds)).flatten()
        matched = "/".join(f"{share:.2f}" for share in facts["matched_per_drafted"].values() if share is not None)
        print(
            f"  {contender.name:16} {name_of(contender.cascade):34} {spread(speeds.tolist()):26} tokens/s,"
            f" {facts['tokens_per_target_pass']:5.2f} per target pass, matched {matched or '-'},"
            f" {facts['outside_forwards']:.1%} outside forwards"
        )
    for name, ratio in comparison["ratios"].items():
        low, high = ratio["interval_95"]
        each = ratio["per_prompt"]
        print(
            f"  {name:34} {ratio['geometric_mean']:.3f}x  (95 % interval {low:.3f} .. {high:.3f}; "
            f"prompts {min(each):.3f} .. {max(each):.3f})"
        )


@torch.inference_mode()
def tie_gap(network: Llama, prompt: Sequence[int], plain: Sequence[int], other: Sequence[int]) -> float:
    """How far apart, in logits of the target, the two tokens are at which two texts part."""
    at = next(i for i, (a, b) in enumerate(zip(plain, other, strict=True)) if a != b)
    logits = network(torch.tensor([[*prompt, *plain[:at]]]))[0, -1]
    return float((logits[plain[at]] - logits[other[at]]).abs())
