"""The invariant that the product stands on: whatever the cascade, the text is the target's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_networks import VOCABULARY, autoregressive, networks, random_cascade

from hispec_sim.acceptance.sampler import Sampler
from hispec_sim.cascade import Cascade, Forward
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Greedy
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.record import SequenceRecord
from hispec_sim.scheduler import Grouping
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
    replayed in the simulator, give the same forwards, element by element."""
    rng = np.random.default_rng(seed)
    ties, outcomes = 0, set()
    for case in range(cases):
        cascade, slots = random_cascade(rng), (1, 4)[case % 2]
        texts = prompts(rng, slots + case % 2)
        expected, _ = decode(autoregressive(), texts, 4)
        decoder = Decoder(cascade, networks(), slots=slots, max_tokens=60, grouping=list(Grouping)[case // 2 % 2])
        prefill_first = case % 3 == 0
        outputs, record = decoder.decode(
            texts, NEW_TOKENS, new_chooser=lambda index: Greedy(), prefill_first=prefill_first
        )
        for text, ours, theirs in zip(texts, outputs, expected, strict=True):
            if ours != theirs:
                assert is_a_tie(text, ours, theirs), cascade
                ties += 1
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
    with pytest.raises(InputError, match="names the network 'big'"):
        Decoder(autoregressive(), {"other": networks()["draft"]}, slots=1, max_tokens=20)
