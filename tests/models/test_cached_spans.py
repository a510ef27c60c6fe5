"""Running layers span by span over a cache gives what running whole sequences gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hispec_sim.errors import InputError
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.config import LlamaConfig, RopeScaling
from hispec_sim.models.llama import Llama
from hispec_sim.models.rope import to_halves, to_neighbours
from hispec_sim.networks import NetworkSpec

VOCABULARY = 97


def tiny(*, tied: bool = True, heads: tuple[int, int] = (4, 2), scaling: RopeScaling | None = None) -> Llama:
    """A network of six layers with random weights."""
    torch.manual_seed(1)
    shape = NetworkSpec("tiny", 6, 32, heads[0], heads[1], 8, 48, VOCABULARY, tied)
    return Llama(LlamaConfig(shape, max_positions=64, rope_scaling=scaling)).eval()


@pytest.fixture(scope="module")
def network() -> Llama:
    return tiny()


def assert_same(one: torch.Tensor | None, other: torch.Tensor) -> None:
    assert one is not None
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_ragged_batches_of_spans_give_whole_sequence_logits(network: Llama) -> None:
    """Three sequences, pushed to exits in random portions and batches, each position exactly once per span."""
    rng = np.random.default_rng(7)
    texts = rng.integers(0, VOCABULARY, (3, 40)).tolist()
    expected = network(torch.tensor(texts))
    cached = CachedNetwork(network, slots=3, max_tokens=48, exits=(1, 4))
    spans, pushed = [(0, 1), (1, 4), (4, 6)], np.zeros((3, 3), int)
    while (pushed[:, 2] < 40).any():
        depth = int(rng.integers(3))
        first, last = spans[depth]
        available = (pushed[:, depth - 1] if depth else np.full(3, 40)) - pushed[:, depth]
        slots = [slot for slot in rng.permutation(3) if available[slot] > 0 and rng.random() < 0.7]
        if not slots:
            continue
        pieces = []
        for slot in slots:
            tokens = int(rng.integers(1, min(available[slot], 9) + 1))
            position = int(pushed[slot, depth])
            ids = texts[slot][position : position + tokens] if first == 0 else ()
            pieces.append(Piece(int(slot), position, tokens, tokens if last == 6 else 0, ids))
        logits = cached.forward(first, last, pieces)
        if last == 6:
            assert_same(logits, torch.cat([expected[p.slot, p.position : p.position + p.tokens] for p in pieces]))
        for piece in pieces:
            pushed[piece.slot, depth] += piece.tokens


@torch.inference_mode()
def test_what_was_rejected_is_never_seen_again(network: Llama) -> None:
    """Writing over a position is all that a rollback takes."""
    cached = CachedNetwork(network, slots=1, max_tokens=48, exits=(2,))
    text, wrong = list(range(20)), [96, 95, 94, 93]
    cached.forward(0, 6, [Piece(0, 0, 10, 0, text[:10])])
    cached.forward(0, 6, [Piece(0, 10, 4, 4, wrong)])
    logits = cached.forward(0, 6, [Piece(0, 10, 2, 2, text[10:12])])
    assert_same(logits, network(torch.tensor([text[:12]]))[0, 10:])


@torch.inference_mode()
def test_an_exit_reads_out_what_the_network_cut_there_would(network: Llama) -> None:
    """Logits at layer 4 from the shared final norm and head."""
    text = list(range(12))
    cached = CachedNetwork(network, slots=1, max_tokens=16, exits=(4,))
    assert_same(cached.forward(0, 4, [Piece(0, 0, 12, 3, text)]), network(torch.tensor([text]), exit_layer=4)[0, 9:])


def test_row_orders_are_inverse() -> None:
    """Hugging Face's halves and neighbouring pairs."""
    weight = torch.randn(24, 5)
    assert torch.equal(to_halves(to_neighbours(weight, 8), 8), weight)
    assert torch.equal(to_neighbours(weight, 8)[:8, 0], weight[[0, 4, 1, 5, 2, 6, 3, 7], 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_rotations_keep_their_precision_in_any_type(dtype: torch.dtype) -> None:
    """Casting a network leaves its positions alone, and the cached forward is that of whole sequences."""
    exact, made = tiny(), tiny().to(dtype)
    assert torch.equal(made.rotations, exact.rotations)
    text = list(range(12))
    cached = CachedNetwork(made, slots=1, max_tokens=16, exits=())
    logits = cached.forward(0, 6, [Piece(0, 0, 12, 12, text)])
    assert logits is not None
    torch.testing.assert_close(logits, made(torch.tensor([text]))[0], rtol=0.05, atol=0.05)
    expected = exact(torch.tensor([text]))[0]
    assert (logits - expected).norm() < 0.02 * expected.norm()


def test_rotations_come_out_of_the_meta_device() -> None:
    """Where there is nothing to copy they are made anew."""
    with torch.device("meta"):
        made = Llama(tiny().config)
    assert torch.equal(made.to_empty(device="cpu").rotations, tiny().rotations)


def test_padding_is_written_where_nothing_is_read(network: Llama) -> None:
    """A short piece beside a long one writes its own rows and the scratch row, no other."""
    cached = CachedNetwork(network, slots=2, max_tokens=16, exits=())
    cached.forward(0, 6, [Piece(0, 3, 1, 0, [1]), Piece(1, 0, 5, 0, [2] * 5)])
    written = cached._kv.abs().sum(dim=(0, 3, 4)) > 0
    assert written[0].nonzero().flatten().tolist() == [3, 16]
    assert written[1].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def test_a_prompt_longer_than_the_network_is_refused(network: Llama) -> None:
    """With the limit and the cure."""
    with pytest.raises(InputError, match="64 positions, 65 are asked for; shorten"):
        CachedNetwork(network, slots=1, max_tokens=65, exits=())
