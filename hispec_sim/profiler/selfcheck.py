"""What a latency profile predicts, against forwards and whole decodes that it was not made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from statistics import median

import numpy as np

from hispec_sim.cascade import Cascade
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Greedy
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.record import Record
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.latency.ops import exit_layer_of
from hispec_sim.latency.profile import LatencyProfile
from hispec_sim.models.cache import Piece
from hispec_sim.models.loading import LoadedModel
from hispec_sim.profiler.bench import NETWORK, cascades, clock_for, default_exits
from hispec_sim.profiler.checks import DECODES, FORWARDS, Check
from hispec_sim.profiler.decoded import decode_ms, first_checked
from hispec_sim.profiler.forwards import warm
from hispec_sim.profiler.moments import AnyMoment, Moments
from hispec_sim.profiler.prompts import Split, prompt_set
from hispec_sim.profiler.timed_network import TimedNetwork
from hispec_sim.profiler.token_pool import TokenPool
from hispec_sim.simulate.jitter import mean_factor

SHAPES = 24
PROMPTS = 3
NEW_TOKENS = 64
PASSES, CHECKS_S = 5, 45.0

Times = dict[str, list[float]]
"""Milliseconds by the name of what took them."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """What a profile covers: from the first to the last of the batches, up to `widest` query tokens and `longest`
    tokens of context; and the exits that its decodes use."""

    batches: tuple[int, ...]
    widest: int
    longest: int
    exits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Shape:
    """A forward of `tokens` query tokens for each sequence of a batch."""

    batch: int
    tokens: int
    context: int
    first: int
    last: int
    read: bool

    @property
    def name(self) -> str:
        return (
            f"layers ({self.first}, {self.last}], batch {self.batch}, {self.tokens} query tokens, "
            f"context {self.context}"
        )

    def ms(self, cost: NetworkCost) -> float:
        """What a profile predicts."""
        parts = cost.parts_ms(
            first_layer=self.first,
            last_layer=self.last,
            batch=self.batch,
            tokens=self.batch * self.tokens,
            logits=self.batch * self.tokens * self.read,
            context=self.context,
        )
        return sum(float(ms) for part, ms in parts.items() if part != "host")


class SelfCheck:
    """What is to be predicted, run again and again: spans between exits and all layers at random batches, query tokens
    and contexts within `ranges`; autoregressive decoding and one cascade of the exits, of one prompt and of a batch.

    Times, in milliseconds, are kept by the caller under the name of what they are of. A profile that is being measured
    is checked between its scenes: a machine that grows slower does so for both.
    """

    def __init__(
        self,
        model: LoadedModel,
        ranges: Ranges,
        *,
        clock: str = "wall",
        seed: int = 0,
        prompts: str | None = None,
        moments: Moments | None = None,
    ) -> None:
        """`prompts`: a set whose held-out half is decoded; by default prose, or the model's own. `moments`: when what
        runs counts; always, unless given. Raises InputError if contexts have no room for what is decoded."""
        room = ranges.longest - NEW_TOKENS
        if room < 1:
            raise InputError(
                f"a check decodes {NEW_TOKENS} tokens behind a prompt, and contexts end at {ranges.longest}: measure "
                f"with --contexts of at least {NEW_TOKENS + 1}, or leave --check out"
            )
        network = self._network = model.network
        self._clock, self._rng = clock_for(network, clock), np.random.default_rng([seed, 1])
        self._ids = TokenPool(self._rng, network.config.shape.vocab_size)
        self._ranges, n_layers = ranges, network.config.shape.n_layers
        self._moments = moments or AnyMoment()
        self._shapes = self._drawn(n_layers)
        names = prompts or ("reference" if model.name == "reference" else "prose")
        ids = [model.tokenizer.encode(text.text)[:room] for text in prompt_set(names, Split.HELD_OUT)]
        self._decodes = {
            f"{('autoregressive', 'cascade')[which]}, batch {batch}, prompt {number + 1}": (
                cascade,
                [ids[(number * batch + i) % len(ids)] for i in range(batch)],
            )
            for number, batch, (which, cascade) in product(
                range(PROMPTS), ranges.batches, enumerate(cascades(n_layers, ranges.exits))
            )
        }
        self._records: dict[str, Record] = {}
        self._cached: dict[int, TimedNetwork] = {}
        self._due: list[str] = []
        self.spent_s = 0.0

    def play(self) -> Times:
        """What is next: a decode or all forwards, each of them once before any is run again."""
        if not self._due:
            self._due = [FORWARDS, *self._decodes]
            self._rng.shuffle(self._due)
        times: Times = {}
        self._play(self._due.pop(), times)
        return times

    def play_all(self, times: Times) -> None:
        """Everything once."""
        for name in (FORWARDS, *self._decodes):
            self._play(name, times)

    def checks(self, profile: LatencyProfile, times: Times) -> list[Check]:
        """What the profile predicts against the medians of these times; what has none is run."""
        cost = NetworkCost(profile, tensor_parallel=1)
        if not all(shape.name in times for shape in self._shapes):
            self._play(FORWARDS, times)
        for name in self._decodes:
            if name not in times or name not in self._records:
                self._play(name, times)
        forwards = [Check(FORWARDS, shape.name, shape.ms(cost), median(times[shape.name])) for shape in self._shapes]
        # Late forwards make a sum of times longer than the sum of the medians.
        late = mean_factor(profile.spread())
        decodes = [
            Check(DECODES, name, late * decode_ms(self._records[name], cascade, {NETWORK: cost}), median(times[name]))
            for name, (cascade, _) in self._decodes.items()
        ]
        return [*forwards, *decodes]

    def _play(self, name: str, times: Times) -> None:
        began_s, lost_s = self._clock.now_s(), self._moments.lost_s
        if name == FORWARDS:
            for shape, ms in self._moments.measure(self._forwards):
                times.setdefault(shape.name, []).append(ms)
        else:
            cascade, prompts = self._decodes[name]
            decode = partial(self._decode, self._decoder(cascade, len(prompts)), prompts)
            self._caches()[len(prompts)].settle(name, decode)
            record = self._moments.measure(decode)
            self._records[name] = record
            began_ms = record.device[first_checked(record, cascade)].began_ms
            times.setdefault(name, []).append(record.wall_ms - began_ms)
        self.spent_s += self._clock.now_s() - began_s - (self._moments.lost_s - lost_s)

    def _decoder(self, cascade: Cascade, slots: int) -> Decoder:
        """Graphs are of the caches that they were captured over: where forwards become graphs, decodes share theirs."""
        cached = self._caches()[slots]
        network = cached if cached.captures else self._network
        return Decoder(
            cascade, {NETWORK: network}, slots=slots, max_tokens=self._ranges.longest, clock_s=self._clock.loop_s
        )

    def _decode(self, decoder: Decoder, prompts: Sequence[Sequence[int]]) -> Record:
        return decoder.decode(prompts, NEW_TOKENS, new_chooser=lambda index: Greedy())[1]

    def _caches(self) -> dict[int, TimedNetwork]:
        """By batch."""
        if not self._cached:
            exits = [*self._ranges.exits, self._network.config.shape.n_layers // 2]
            self._cached = {
                batch: TimedNetwork(self._network, slots=batch, max_tokens=self._ranges.longest, exits=exits)
                for batch in self._ranges.batches
            }
        return self._cached

    def _forwards(self) -> list[tuple[_Shape, float]]:
        """All spans in random order, twice, each behind a loop of tokens through all layers; their milliseconds."""
        found = []
        for _ in range(2):
            for index in self._rng.permutation(len(self._shapes)).tolist():
                shape = self._shapes[index]
                token = replace(shape, tokens=1, first=0, last=self._network.config.shape.n_layers, read=True)
                warm(self._clock.now_s, partial(self._forward_ms, token))
                found.append((shape, self._forward_ms(shape)))
        return found

    def _forward_ms(self, shape: _Shape) -> float:
        ids = self._ids.take(shape.batch, shape.tokens) if shape.first == 0 else [()] * shape.batch
        rows = shape.tokens if shape.read else 0
        pieces = [Piece(i, shape.context - shape.tokens, shape.tokens, rows, ids[i]) for i in range(shape.batch)]
        cached = self._caches()[shape.batch]
        cached.settle_forward(shape.first, shape.last, pieces)
        return self._clock.timed(lambda: cached.forward(shape.first, shape.last, pieces))[0]

    def _drawn(self, n_layers: int) -> list[_Shape]:
        """The spans that are checked."""
        batches, exits = self._ranges.batches, self._ranges.exits
        spans = [
            (0, n_layers),
            (0, n_layers),
            *zip((0, *exits), (*exits, n_layers), strict=True),
            (n_layers // 2, n_layers),
        ]
        shapes = []
        for number in range(SHAPES):
            tokens = int(min(np.exp(self._rng.uniform(0, np.log(self._ranges.widest + 1))), self._ranges.widest))
            context = int(self._rng.integers(tokens + 1, self._ranges.longest + 1))
            first, last = spans[number % len(spans)]
            # Exits are read out in decodes: here their heads would have to catch up first.
            shapes.append(_Shape(batches[number % len(batches)], tokens, context, first, last, last == n_layers))
        return shapes


def check_profile(
    profile: LatencyProfile, model: LoadedModel, *, clock: str = "wall", seed: int = 0, prompts: str | None = None
) -> list[Check]:
    """Forwards at points between those measured, and decodes of real prompts, predicted and run: medians of a few runs,
    of as many as take `CHECKS_S`. Raises InputError if the profile is none that was measured here."""
    table = profile.table("layer", 1)
    if table is None:
        raise InputError(f"latency profile {profile.name} has no op layer: only measured profiles can be checked")
    ranges = Ranges(
        tuple(sorted({1, int(table.batch[-1])})),
        int(table.query_tokens[-1]),
        int(table.context[-1]),
        exits_of(profile) or default_exits(model.network),
    )
    check = SelfCheck(model, ranges, clock=clock, seed=seed, prompts=prompts)
    times: Times = {}
    for _ in range(PASSES):
        check.play_all(times)
        if check.spent_s > CHECKS_S:
            break
    return check.checks(profile, times)


def exits_of(profile: LatencyProfile) -> tuple[int, ...]:
    """The exits whose heads a profile has."""
    return tuple(sorted(e for e in {exit_layer_of(table.op) for table in profile.tables} if e is not None))
