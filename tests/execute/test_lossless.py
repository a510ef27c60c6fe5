"""The invariant that the product stands on: whatever the cascade, the text is the target's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import pytest
import torch
from tiny_networks import VOCABULARY, autoregressive, networks, random_cascade

from hispec_sim.acceptance.sampler import Sampler
from hispec_sim.cascade import Cascade, Forward
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Greedy, Token
from hispec_sim.execute.decoder import Decoder, Decoding
from hispec_sim.execute.record import Record, SequenceRecord
from hispec_sim.models.llama import Layer
from hispec_sim.scheduler import Grouping
from hispec_sim.simulate.engine import Engine
from hispec_sim.simulate.pricing import Asking, Pricer
from hispec_sim.step_graph import Kind, Node, StepGraph

torch.set_num_threads(1)
NEW_TOKENS = 16
NUMERICAL_DIFFERENCE = 1e-4
"""Above the largest difference between the same logits computed alone and in a batch."""


def prompts(rng: np.random.Generator, n: int) -> list[list[int]]:
    return [rng.integers(0, VOCABULARY, int(rng.integers(1, 12))).tolist() for _ in range(n)]


def decode(cascade: Cascade, texts: list[list[int]], slots: int, **options: object) -> tuple[list[list[int]], Decoder]:
    decoder = Decoder(cascade, networks(), slots=slots, max_tokens=60)
    outputs, _ = decoder.decode(texts, NEW_TOKENS, new_chooser=lambda index: Greedy(), **options)  # type: ignore[arg-type]
    return outputs, decoder


def is_a_tie(prompt: list[int], ours: list[int], theirs: list[int]) -> bool:
    """Whether the first difference stands where the target's two best logits are numerically equal."""
    place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    with torch.inference_mode():
        logits = networks()["big"](torch.tensor([[*prompt, *theirs[:place]]]))[0, -1]
    best = logits.topk(2)
    return float(best.values[0] - best.values[1]) < NUMERICAL_DIFFERENCE and ours[place] in best.indices.tolist()


def test_stop_tokens_end_the_text_where_the_target_does() -> None:
    """Nothing is committed behind a stop token, whichever level came upon it first."""
    rng = np.random.default_rng(3)
    for case in range(30):
        cascade, texts = random_cascade(rng), prompts(rng, 2)
        stop_ids = set(rng.choice(VOCABULARY, 3, replace=False).tolist())
        expected, _ = decode(autoregressive(), texts, 1)
        outputs, _ = decode(cascade, texts, 1 + case % 2, stop_ids=stop_ids)
        for ours, theirs in zip(outputs, expected, strict=True):
            end = next((i + 1 for i, token in enumerate(theirs) if token in stop_ids), NEW_TOKENS)
            assert ours == theirs[:end]


class Recorded:
    """A simulator's sampler that answers with the outcomes of an execution."""

    def __init__(self, record: SequenceRecord) -> None:
        self._verified = iter(record.verified)

    def draft(self, node: Node) -> None:
        pass

    def verify(self, node: Node) -> int:
        level, run, matched = next(self._verified)
        assert (level, run) == (node.level, node.run)
        return matched


def simulated_forwards(cascade: Cascade, prompt_tokens: int | None, sampler: Sampler) -> list[Forward]:
    """The forwards that the simulator runs when it is given the outcomes."""
    graph, room = StepGraph(cascade), NEW_TOKENS
    node: Node | None = graph.start(NEW_TOKENS, prompt_tokens)
    forwards = []
    while node is not None:
        forwards.append(node.forward)
        matched = sampler.verify(node) if node.kind is Kind.VERIFY else 0
        move = graph.follow(node, matched)
        node = move.target
        if move.committed and node is not None:
            room -= move.committed
            node = graph.with_room(node, room)
    return forwards


Batch = list[tuple[int, Forward]]
"""Which sequences a forward of the device ran for, in order, and each one's part of it."""


class Watched(Decoder):
    """A decoder that keeps its batches."""

    batches: list[Batch]

    def _run(self, batch: Sequence[Decoding], record: Record) -> dict[int, torch.Tensor]:
        self.batches = [*getattr(self, "batches", []), [(each.index, each.node.forward) for each in batch]]
        return super()._run(batch, record)


class OnePrice(Pricer):
    """Every forward takes as long: on one device, time does not decide what runs next."""

    def __init__(self) -> None:
        pass

    def price_ms(self, batch: Sequence[Asking]) -> float:
        return 1.0


def simulated_batches(
    cascade: Cascade, texts: list[list[int]], slots: int, grouping: Grouping, record: Record
) -> list[Batch]:
    """What the simulator's engine runs when it is given the outcomes."""
    engine = Engine(
        StepGraph(cascade), OnePrice(), new_sampler=lambda k: Recorded(record.sequences[k]), grouping=grouping
    )
    log = engine.run([(len(text), NEW_TOKENS) for text in texts], slots)
    members = zip(log.request, log.move, strict=True)
    return [
        [(request.index, move.source.forward) for request, move in islice(members, size)] for size in log.batch_size
    ]


@pytest.mark.parametrize("tenth", range(10))
def test_two_hundred_random_cascades(tenth: int) -> None:
    """Twenty a time."""
    check_random_cascades(seed=tenth, cases=20)


@pytest.mark.slow
@pytest.mark.parametrize("twentieth", range(20))
def test_two_thousand_random_cascades(twentieth: int) -> None:
    """A hundred a time."""
    check_random_cascades(seed=1000 + twentieth, cases=100)


def check_random_cascades(seed: int, cases: int) -> None:
    """The target's text token for token, at batch 1 and 4 under both groupings (ties are counted); and the outcomes,
    replayed in the simulator, give the same forwards, element by element; from its engine, which begins behind the
    prompts, in the same batches."""
    rng = np.random.default_rng(seed)
    ties, outcomes = 0, set()
    for case in range(cases):
        cascade, slots = random_cascade(rng), (1, 4)[case % 2]
        texts = prompts(rng, slots + case % 2)
        expected, _ = decode(autoregressive(), texts, 4)
        grouping = list(Grouping)[case // 2 % 2]
        decoder = Watched(cascade, networks(), slots=slots, max_tokens=60, grouping=grouping)
        prefill_first = case % 3 == 0
        outputs, record = decoder.decode(
            texts, NEW_TOKENS, new_chooser=lambda index: Greedy(), prefill_first=prefill_first
        )
        for text, ours, theirs in zip(texts, outputs, expected, strict=True):
            if ours != theirs:
                assert is_a_tie(text, ours, theirs), cascade
                ties += 1
        if prefill_first:
            assert simulated_batches(cascade, texts, slots, grouping, record) == decoder.batches
        ran = [(forward.batch, forward.tokens, forward.logits) for forward in record.device]
        assert ran == [
            (len(batch), sum(part.tokens for _, part in batch), sum(part.logits for _, part in batch))
            for batch in decoder.batches
        ]
        pushed = record.tokens_through()
        for text, sequence in zip(texts, record.sequences, strict=True):
            prompt_tokens = None if prefill_first else len(text)
            assert simulated_forwards(cascade, prompt_tokens, Recorded(sequence)) == sequence.forwards
            for forward in sequence.forwards:
                pushed[forward.network, forward.first_layer, forward.last_layer] -= forward.tokens
            outcomes |= {(len(cascade.levels), *verified) for verified in sequence.verified}
        assert not +pushed, "the device ran exactly what the cascade asked for"
    assert ties <= 2 + cases // 50
    assert len(outcomes) > 40, "the networks must produce all kinds of outcomes"


@pytest.mark.parametrize("slots", [1, 4])
def test_layers_run_what_forwards_say_and_no_more(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Query tokens, counted in the layers themselves: what a shallower level has pushed runs through no layer again.
    Sequences of a batch are padded to the longest."""
    ran: Counter[Layer] = Counter()
    maths = Layer.maths

    def counting(layer: Layer, *norm_of: object) -> Callable[..., torch.Tensor]:
        inner = maths(layer, *norm_of)  # type: ignore[arg-type]

        def run(x: torch.Tensor, *more: object) -> torch.Tensor:
            ran[layer] += x.shape[0] * x.shape[1]
            return inner(x, *more)  # type: ignore[arg-type]

        return run

    monkeypatch.setattr(Layer, "maths", counting)
    rng = np.random.default_rng(6)
    for _ in range(10):
        ran.clear()
        decoder = Watched(random_cascade(rng), networks(), slots=slots, max_tokens=60)
        decoder.decode(prompts(rng, slots), NEW_TOKENS, new_chooser=lambda index: Greedy())
        asked: Counter[Layer] = Counter()
        for batch in decoder.batches:
            forward = batch[0][1]
            layers = networks()[forward.network].layers[forward.first_layer : forward.last_layer]
            asked.update(dict.fromkeys(layers, len(batch) * max(part.tokens for _, part in batch)))  # type: ignore[arg-type]
        assert ran == asked


def test_what_watches_the_text_takes_no_time() -> None:
    """Printing tokens as they become final is not decoding."""
    now_s = 0.0

    def print_slowly(index: int, tokens: Sequence[Token]) -> None:
        nonlocal now_s
        now_s += 1

    decoder = Decoder(autoregressive(), networks(), slots=1, max_tokens=60, clock_s=lambda: now_s)
    _, record = decoder.decode([[1, 2, 3]], NEW_TOKENS, new_chooser=lambda index: Greedy(), on_commit=print_slowly)
    assert now_s == NEW_TOKENS
    assert record.wall_ms == 0
    assert not any(record.with_gaps_ms())


def test_time_outside_forwards_is_small_and_counted() -> None:
    """The record's parts fit its whole."""
    decoder = Decoder(autoregressive(), networks(), slots=1, max_tokens=60)
    _, record = decoder.decode([[1, 2, 3]], NEW_TOKENS, new_chooser=lambda index: Greedy())
    assert len(record.device) == NEW_TOKENS
    assert 0 < record.forward_ms <= record.wall_ms == record.decode_ms
    _, record = decoder.decode([[1, 2, 3]], NEW_TOKENS, new_chooser=lambda index: Greedy(), prefill_first=True)
    assert [forward.tokens for forward in record.device] == [1] * NEW_TOKENS, "the prompt is in the cache"
    assert 0 < record.prefill_ms < record.wall_ms
    assert record.forward_ms <= record.decode_ms < record.wall_ms
    prompts = [[1, 2, 3], [4] * 9, [5, 6]]
    _, record = Decoder(autoregressive(), networks(), slots=2, max_tokens=60).decode(
        prompts, 4, new_chooser=lambda index: Greedy(), prefill_first=True
    )
    times_ms = record.with_gaps_ms()
    assert sum(times_ms) == pytest.approx(record.decode_ms), "prefill between forwards is left out"
    assert all(ms > forward.duration_ms for ms, forward in zip(times_ms, record.device, strict=True))
    assert [forward.prefill_ms > 0 for forward in record.device] == [False] * 3 + [True] + [False] * 4


def test_wrong_requests_are_refused() -> None:
    """Before anything runs."""
    decoder = Decoder(autoregressive(), networks(), slots=1, max_tokens=20)
    with pytest.raises(InputError, match="prompt 1 is empty"):
        decoder.decode([[1], []], 5, new_chooser=lambda index: Greedy())
    with pytest.raises(InputError, match="prompt 0 has 16 tokens and 5 new ones"):
        decoder.decode([[1] * 16], 5, new_chooser=lambda index: Greedy())
    for prompt in ([VOCABULARY], [1, VOCABULARY + 8, 2]):
        with pytest.raises(InputError, match=f"prompt 1 holds the token {max(prompt)}, .* only {VOCABULARY} tokens"):
            decoder.decode([[1], prompt], 5, new_chooser=lambda index: Greedy())
    with pytest.raises(InputError, match="names the network 'big'"):
        Decoder(autoregressive(), {"other": networks()["draft"]}, slots=1, max_tokens=20)
