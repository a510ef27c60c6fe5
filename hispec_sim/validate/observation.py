"""What one run of one configuration came to, real or simulated: the same figures on both sides, and what an
observation keeps so that the errors of its prediction can be taken apart."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from hispec_sim.simulate.engine import RunLog
from hispec_sim.step_graph import Kind


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a run. Tuples have one entry per level, draft first; time is that of forwards that reach the level,
    with the gap behind each."""

    tokens_per_s: float
    tokens_per_target_pass: float
    matched_per_drafted: tuple[float, ...]
    forwards_per_token: float
    level_ms_per_token: tuple[float, ...]

    def flat(self) -> dict[str, float]:
        """One number per name; level 0 verifies nothing."""
        found: dict[str, float] = {
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_target_pass": self.tokens_per_target_pass,
            "forwards_per_token": self.forwards_per_token,
        }
        found |= {f"matched_per_drafted_{k}": x for k, x in enumerate(self.matched_per_drafted) if k}
        return found | {f"level_{k}_ms_per_token": x for k, x in enumerate(self.level_ms_per_token)}


class Shape(NamedTuple):
    """What device forwards are told apart by; tokens and logits are sums over the batch."""

    network: str
    first_layer: int
    last_layer: int
    batch: int
    tokens: int
    logits: int


ShapeTimes = dict[Shape, tuple[int, float]]
"""For each shape of forward how often it ran, and the milliseconds in all, with the gaps behind."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One real run. `times` has, for each shape of forward, how often it ran and the milliseconds in all, with the gaps
    behind; `verified` the (level, run, matched) of each sequence's verifications in order; `text_sha256` the hash of
    what was written."""

    configuration: str
    repeat: int
    tokens: int
    decode_ms: float
    prefill_ms: float
    forward_ms: float
    figures: Figures
    times: ShapeTimes
    verified: list[list[tuple[int, int, int]]]
    text_sha256: str

    def data(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return asdict(self) | {"times": [[*shape, *times] for shape, times in self.times.items()]}

    @classmethod
    def of_data(cls, data: dict[str, Any]) -> Observation:
        """What `data` gave. Raises KeyError or TypeError if it is something else."""
        figures: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data["figures"].items()}
        parts: dict[str, Any] = {
            "figures": Figures(**figures),
            "times": {Shape(*row[:6]): (row[6], row[7]) for row in data["times"]},
            "verified": [[(level, run, matched) for level, run, matched in each] for each in data["verified"]],
        }
        return cls(**(data | parts))


def summed_times(runs: Iterable[Observation]) -> ShapeTimes:
    """The `times` of all of them together."""
    summed: ShapeTimes = {}
    for run in runs:
        for shape, (times, total_ms) in run.times.items():
            before = summed.get(shape, (0, 0.0))
            summed[shape] = (before[0] + times, before[1] + total_ms)
    return summed


def merged(parts: Sequence[Observation]) -> Observation:
    """One run made of its blocks of prompts, decoded one after another at whatever times."""
    first = parts[0]
    if len(parts) == 1:
        return first
    tokens, decode_ms = sum(part.tokens for part in parts), sum(part.decode_ms for part in parts)
    shapes = summed_times(parts)
    verified = [sequence for part in parts for sequence in part.verified]

    passes = sum(round(part.tokens / part.figures.tokens_per_target_pass) for part in parts)

    def level_ms(level: int) -> float:
        return sum(part.tokens * part.figures.level_ms_per_token[level] for part in parts)

    levels = len(first.figures.level_ms_per_token)
    figures = Figures(
        tokens_per_s=1000 * tokens / decode_ms,
        tokens_per_target_pass=tokens / passes,
        matched_per_drafted=matched_shares([v for sequence in verified for v in sequence], levels),
        forwards_per_token=sum(times for times, _ in shapes.values()) / tokens,
        level_ms_per_token=tuple(level_ms(k) / tokens for k in range(levels)),
    )
    return Observation(
        first.configuration,
        first.repeat,
        tokens,
        decode_ms,
        sum(part.prefill_ms for part in parts),
        sum(part.forward_ms for part in parts),
        figures,
        shapes,
        verified,
        hashlib.sha256("".join(part.text_sha256 for part in parts).encode()).hexdigest(),
    )


def matched_shares(verified: Sequence[tuple[int, int, int]], levels: int) -> tuple[float, ...]:
    """Share of the tokens verified by each level that it accepted; NaN where it verified nothing."""
    run, matched = Counter[int](), Counter[int]()
    for level, n, m in verified:
        run[level] += n
        matched[level] += m
    return tuple(matched[k] / run[k] if run[k] else float("nan") for k in range(levels))


def simulated_figures(log: RunLog) -> Figures:
    """The figures of a simulated run."""
    levels, target = len(log.cascade.levels), log.cascade.target
    first = np.cumsum([0, *log.batch_size[:-1]])
    reached = [log.move[i].source.span.reaches_level for i in first]
    level_ms = np.bincount(reached, weights=log.duration_ms, minlength=levels)
    verified = [
        (move.source.level, move.source.run, move.matched) for move in log.move if move.source.kind is Kind.VERIFY
    ]
    tokens = sum(move.committed for move in log.move)
    passes = sum(1 for move in log.move if move.matched >= 0 and move.source.level == target)
    return Figures(
        tokens_per_s=1000 * tokens / sum(log.duration_ms),
        tokens_per_target_pass=tokens / passes,
        matched_per_drafted=matched_shares(verified, levels),
        forwards_per_token=len(log.duration_ms) / tokens,
        level_ms_per_token=tuple((level_ms / tokens).tolist()),
    )
