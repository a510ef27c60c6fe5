"""Which cascades could be fast on a network: all of them counted in forwards, priced by measured milliseconds.

The target's own text is written once and read by every exit at once. A candidate cascade is then replayed over what
the exits said, which gives its forwards without running any; forwards times their measured milliseconds is its time.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hispec_sim.acceptance.counting import Work, count_forwards
from hispec_sim.acceptance.trace import UNREAD, AgreementTrace, Exit, OffPath, Prompt, label_predictions
from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.execute.record import Record
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.exits import heads_of
from hispec_sim.models.llama import Llama, attend_causally

CHUNK = 8
"""Texts that are read at once: bounds the memory for logits."""
OFF_PATH_TEXTS, OFF_PATH_TOKENS = 64, 4
SEEN_OFTEN = 8
"""A kind of forward measured so often is priced by its median; a rarer one by the fit over all kinds."""

Ids = NDArray[np.int64]
NETWORK = "target"


class Noise:
    """The luck of sampling, one stream per text: a token is the first choice of logits / temperature + noise (Gumbel).

    All exits of a text share it, so that they agree about as often as rejection sampling accepts: exactly so where
    their distributions are equal, a little less often elsewhere. At temperature 0 there is no noise.
    """

    def __init__(self, texts: int, vocab_size: int, temperature: float, seed: int) -> None:
        self.temperature, self.vocab_size, self.seed = temperature, vocab_size, seed
        self._streams = [self._stream(text) for text in range(texts)]

    def _stream(self, text: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, text])

    def next_choice(self, logits: torch.Tensor) -> Ids:
        """One token for each text; logits: (texts, vocab_size)."""
        return self._choice(logits, lambda: np.stack([stream.random(self.vocab_size) for stream in self._streams]))

    def choices(self, text: int, logits: Sequence[torch.Tensor]) -> list[Ids]:
        """The tokens from a text's first on that each exit would choose; logits: (tokens, vocab_size) each."""
        uniform = self._stream(text).random(logits[0].shape) if self.temperature else None
        return [self._choice(x, lambda: uniform) for x in logits]

    def _choice(self, logits: torch.Tensor, uniform) -> Ids:  # type: ignore[no-untyped-def]
        if not self.temperature:
            return logits.argmax(-1).numpy()
        return (logits.double().numpy() / self.temperature - np.log(-np.log(uniform()))).argmax(-1)


@torch.inference_mode()
def write(network: Llama, prompts: Ids, new_tokens: int, noise: Noise) -> Ids:
    """The target's text: (texts, tokens) -> (texts, tokens + new_tokens)."""
    texts, begun = prompts.shape
    cached = CachedNetwork(network, slots=texts, max_tokens=begun + new_tokens, exits=())
    written = np.concatenate([prompts, np.zeros((texts, new_tokens), np.int64)], axis=1)
    position = 0
    for end in range(begun, begun + new_tokens):
        step = [Piece(i, position, end - position, 1, written[i, position:end].tolist()) for i in range(texts)]
        logits = cached.forward(0, network.config.shape.n_layers, step)
        assert logits is not None
        written[:, end], position = noise.next_choice(logits), end
    return written


@torch.inference_mode()
def exit_logits(network: Llama, tokens: Ids, exits: Sequence[int]) -> list[torch.Tensor]:
    """Logits (texts, tokens, vocab_size) at each of `exits`, ascending, through exit heads where attached."""
    turn, heads = network.rotations[None, : tokens.shape[1], None], heads_of(network)
    x, at, found = network.embedding(torch.from_numpy(tokens)), 0, []
    for exit_layer in exits:
        x, at = network.span(x, at, exit_layer, turn, attend_causally), exit_layer
        read = heads[exit_layer](x, turn, attend_causally) if exit_layer in heads else x
        found.append(network.read_out(read, exit_layer))
    return found


def record_trace(network: Llama, prompts: Ids, new_tokens: int, exits: Sequence[int], noise: Noise) -> AgreementTrace:
    """What all exits say along the target's own text, and how often they agree off it."""
    depths = [*exits, network.config.shape.n_layers]
    text, begun = write(network, prompts, new_tokens, noise), prompts.shape[1]
    said: list[list[Ids]] = [[] for _ in depths]
    for at in range(0, len(text), CHUNK):
        logits = exit_logits(network, text[at : at + CHUNK, :-1], depths)
        for row in range(len(logits[0])):
            chosen = noise.choices(at + row, [x[row, begun - 1 :] for x in logits])
            for each, choice in zip(said, chosen, strict=True):
                each.append(choice)
    predictions = np.stack([np.stack(each) for each in said], axis=-1)  # (texts, new_tokens, exits)
    return AgreementTrace(
        networks=(replace(network.config.shape, name=NETWORK),),
        exits=tuple(Exit(NETWORK, depth) for depth in depths),
        labels=label_predictions(predictions.reshape(-1, len(depths))),
        starts=np.arange(len(text) + 1, dtype=np.int64) * new_tokens,
        prompts=tuple(Prompt(f"text {i}", f"text {i}", "", begun) for i in range(len(text))),
        off_path=off_path(network, text, begun, predictions, depths),
        sampling=None,  # sampled tokens are labelled like first choices; see Noise
        provenance={"texts": len(text), "new_tokens": new_tokens, "temperature": noise.temperature},
    )


def off_path(network: Llama, text: Ids, begun: int, predictions: Ids, depths: Sequence[int]) -> OffPath:
    """What exits say behind tokens of theirs that the target would not write: the exit's wrong token replaces the
    target's, the exit writes on greedily, and it and all shallower ones read what stands there. Contexts are the
    `begun` tokens before."""
    at, rows = [], []
    for i in range(1, len(depths) - 1):
        wrong = np.argwhere(predictions[..., i] != predictions[..., -1])
        if not len(wrong):
            continue
        wrong = wrong[np.linspace(0, len(wrong) - 1, min(len(wrong), OFF_PATH_TEXTS)).astype(int)]
        off = np.stack([[*text[t, p : p + begun], predictions[t, p, i]] for t, p in wrong])
        said = []
        for _ in range(OFF_PATH_TOKENS):
            choices = [x[:, -1].argmax(-1).numpy() for x in exit_logits(network, off, depths[: i + 1])]
            said.append(np.stack(choices, axis=-1))
            off = np.concatenate([off, choices[i][:, None]], axis=1)
        labels = np.full((len(wrong), OFF_PATH_TOKENS, len(depths)), UNREAD, np.uint8)
        labels[..., : i + 1] = np.stack([label_predictions(step) for step in said], axis=1)
        at.append(np.column_stack([wrong, np.full(len(wrong), i)]).astype(np.int32))
        rows.append(labels)
    if not at:
        return OffPath.none(len(depths), sampled=False)
    return OffPath(np.concatenate(at), np.concatenate(rows))


def single_layer(exits: Iterable[int], n_layers: int, drafts: Iterable[int]) -> Iterator[Cascade]:
    """All two-level cascades."""
    for exit_layer in exits:
        for draft_length in drafts:
            for bonus in Bonus:
                yield build([(exit_layer, 0), (n_layers, draft_length)], bonus)


def hierarchical(
    exits: Sequence[int], n_layers: int, drafts: Iterable[int], periods: Sequence[int]
) -> Iterator[Cascade]:
    """All three-level cascades."""
    for draft in exits:
        for middle in (layer for layer in exits if layer > draft):
            for draft_length in drafts:
                for period in periods:
                    for bonus in Bonus:
                        yield build([(draft, 0), (middle, draft_length), (n_layers, period)], bonus)


def build(levels: Sequence[tuple[int, int]], bonus: Bonus = Bonus.ON_MISMATCH) -> Cascade:
    """A cascade of (exit layer, verify period) on one network."""
    return Cascade(tuple(Level(NETWORK, *level) for level in levels), bonus)


def name_of(cascade: Cascade) -> str:
    """Such as 1>6>40, Nd 2, Ni 6, always."""
    layers = ">".join(str(level.exit_layer) for level in cascade.levels)
    periods = "".join(
        f", {n} {level.verify_period}" for n, level in zip(("Nd", "Ni"), cascade.levels[1:], strict=False)
    )
    return f"{layers}{periods}" + (f", {cascade.bonus}" if periods else "")


@dataclass(frozen=True, slots=True)
class Prices:
    """Milliseconds of a forward in the decode loop, the time until the next one begins included."""

    measured: dict[Work, float]
    """Medians of the kinds that were met often."""
    weights: NDArray[np.float64]
    """Of `_features`, for all other kinds."""
    between_ms: float
    """Time outside forwards, for each forward."""
    error: float
    """Median relative difference of the fit from what was measured."""

    def of(self, work: Work) -> float:
        """Milliseconds of one forward."""
        known = self.measured.get(work)
        return self.between_ms + (known if known is not None else max(0.0, float(_features(work) @ self.weights)))

    def total(self, counts: Counter[Work]) -> float:
        """Milliseconds of all forwards."""
        return sum(times * self.of(work) for work, times in counts.items())


def _features(work: Work) -> NDArray[np.float64]:
    """One token is multiplied otherwise than several (a vector, no mask), so they have terms of their own."""
    layers, tokens, several = work.last_layer - work.first_layer, work.tokens, work.tokens > 1
    one = [1.0, layers, 0.0, 0.0, 0.0, 0.0] if not several else [0.0, 0.0, 1.0, tokens, layers, layers * tokens]
    return np.array([*one, work.first_layer > 0, work.logits > 0, work.logits])


def measure_prices(records: Iterable[Record]) -> Prices:
    """Prices from real executions of single prompts. Raises InputError if nothing ran."""
    durations: dict[Work, list[float]] = defaultdict(list)
    outside, forwards = 0.0, 0
    for record in records:
        outside += record.wall_ms - record.forward_ms
        forwards += len(record.device)
        for forward in record.device[1:]:  # the first is the prefill, the same for all
            work = Work(NETWORK, forward.first_layer, forward.last_layer, forward.tokens, forward.logits)
            durations[work].append(forward.duration_ms)
    if not durations:
        raise InputError("no forward was measured; calibrate with at least two new tokens")
    medians = {work: statistics.median(each) for work, each in durations.items()}
    features, ms = np.stack([_features(work) for work in medians]), np.array(list(medians.values()))
    certainty = np.sqrt([len(each) for each in durations.values()]) / ms  # relative errors count
    weights = np.linalg.lstsq(features * certainty[:, None], ms * certainty, rcond=None)[0]
    often = {work: medians[work] for work, each in durations.items() if len(each) >= SEEN_OFTEN}
    error = float(np.median(np.abs(features @ weights / ms - 1)))
    return Prices(often, weights, outside / forwards, error)


def rank(
    candidates: Iterable[Cascade], trace: AgreementTrace, sequences: Sequence[int], prices: Prices, seed: int
) -> list[tuple[float, Cascade]]:
    """Candidates by expected milliseconds per new token, the fastest first; prefill is left out."""
    tokens = sum(int(trace.starts[s + 1] - trace.starts[s]) for s in sequences)
    found = [(prices.total(count_forwards(c, trace, sequences, seed)) / tokens, c) for c in candidates]
    return sorted(found, key=lambda pair: pair[0])
