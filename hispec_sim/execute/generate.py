"""One prompt decoded by one cascade, and what it comes to: the figures that the simulator predicts, measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hispec_sim.cascade import Cascade
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Chooser, Greedy, Sampling, Token
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.record import Record
from hispec_sim.models.llama import Llama, dtype_of
from hispec_sim.models.picking import COLDEST


@dataclass(frozen=True, slots=True)
class Settings:
    """How to decode. Temperature 0 is greedy. Raises InputError for a temperature or a top-p that cannot be."""

    max_new_tokens: int
    stop_ids: Collection[int] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or COLDEST <= self.temperature < math.inf):
            raise InputError(
                f"temperature must be 0, which decodes greedily, or from {COLDEST:g} on, got {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    def chooser(self) -> Chooser:
        """A chooser with a stream of its own."""
        if self.temperature == 0:
            return Greedy()
        return Sampling(self.temperature, self.top_p, np.random.default_rng(self.seed))


@dataclass(frozen=True, slots=True)
class Generation:
    """The new tokens and how they came about."""

    token_ids: list[int]
    record: Record

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second of wall time, prefill included."""
        return 1000 * len(self.token_ids) / self.record.wall_ms

    def matched_per_drafted(self, level: int) -> float | None:
        """Share of the tokens verified by a level that it accepted; None if it verified nothing."""
        runs = [(run, matched) for each in self.record.sequences for k, run, matched in each.verified if k == level]
        return sum(matched for _, matched in runs) / sum(run for run, _ in runs) if runs else None

    def tokens_per_target_pass(self, cascade: Cascade) -> float:
        """New tokens per forward that reached the target's depth."""
        target = cascade.levels[-1]
        passes = sum(
            1
            for forward in self.record.device
            if forward.network == target.network and forward.last_layer == target.exit_layer
        )
        return len(self.token_ids) / passes


def generate(
    cascade: Cascade,
    networks: Mapping[str, Llama],
    prompt: Sequence[int],
    settings: Settings,
    on_commit: Callable[[int, Sequence[Token]], None] = lambda index, tokens: None,
) -> Generation:
    """Decode one prompt with caches made for it. `on_commit` gets tokens as they become final. Raises InputError when
    it does not fit."""
    decoder = Decoder(cascade, networks, slots=1, max_tokens=len(prompt) + settings.max_new_tokens)
    return generate_with(decoder, prompt, settings, on_commit)


def generate_with(
    decoder: Decoder,
    prompt: Sequence[int],
    settings: Settings,
    on_commit: Callable[[int, Sequence[Token]], None] = lambda index, tokens: None,
) -> Generation:
    """As `generate`, with a decoder that may have decoded before: what it left in its caches is never seen."""
    outputs, record = decoder.decode(
        [prompt],
        settings.max_new_tokens,
        new_chooser=lambda index: settings.chooser(),
        stop_ids=settings.stop_ids,
        on_commit=on_commit,
    )
    return Generation(outputs[0], record)


def use_threads(threads: int) -> None:
    """Let every forward use so many processor threads."""
    torch.set_num_threads(threads)


def lossless_note(networks: Mapping[str, Llama]) -> str | None:
    """A warning when the networks compute in a type whose rounding can change the text; None in fp32."""
    lossy = {str(dtype_of(network)).removeprefix("torch.") for network in networks.values()} - {"float32"}
    if not lossy:
        return None
    return (
        f"{', '.join(sorted(lossy))} rounds differently for one token than for several at once, so the text may differ "
        "from autoregressive decoding where two tokens are almost equally likely; fp32 is lossless"
    )
