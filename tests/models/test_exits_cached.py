"""Exits with heads, decoded over caches, predict what they predict on whole sequences, whatever was pushed before."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hispec_sim.execute.choosing import Greedy, Token
from hispec_sim.execute.decoder import Decoder, Decoding
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.exits import AdapterHead, ExitHead, Kind, LmHead, attach, new_head
from hispec_sim.models.llama import Llama, attend_causally
from hispec_sim.networks import NetworkSpec

sys.path.append(str(Path(__file__).parents[1] / "execute"))
from tiny_networks import VOCABULARY, autoregressive, networks, random_cascade

torch.set_num_threads(1)
WORDS = 31


def random_head(kind: Kind, network: Llama, seed: int) -> ExitHead:
    """A head that changes what it reads."""
    torch.manual_seed(seed)
    head = new_head(kind, network)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return head


@cache
def six_layers() -> Llama:
    """Blocks at 1 and 3, an adapter at 4, an LM head at 5."""
    torch.manual_seed(2)
    shape = NetworkSpec("six", 6, 32, 4, 2, 8, 48, WORDS, True)
    network = Llama(LlamaConfig(shape, max_positions=64)).eval()
    kinds = {1: Kind.BLOCK, 3: Kind.BLOCK, 4: Kind.ADAPTER, 5: Kind.LM_HEAD}
    return attach(network, {layer: random_head(kind, network, layer) for layer, kind in kinds.items()})


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(4))
def test_random_pushes_rollbacks_and_merges(seed: int) -> None:
    """Three sequences in ragged batches: spans of any length between exits, passed exits, logits read or not, and texts
    that change behind a random place."""
    rng, network = np.random.default_rng(seed), six_layers()
    depths = [0, 1, 3, 4, 5, 6]
    cached = CachedNetwork(network, slots=3, max_tokens=48, exits=depths[1:])
    texts = [rng.integers(0, WORDS, 44).tolist() for _ in range(3)]
    pushed = np.zeros((3, len(depths)), int)
    pushed[:, 0] = 44
    read = set()
    for _ in range(120):
        if rng.random() < 0.3:  # a rejection: the caches are not told
            slot = int(rng.integers(3))
            place = int(rng.integers(max(0, pushed[slot, 1] - 6), pushed[slot, 1] + 1))
            texts[slot][place:] = rng.integers(0, WORDS, 44 - place).tolist()
            pushed[slot, 1:] = np.minimum(pushed[slot, 1:], place)
        start = int(rng.integers(len(depths) - 1))
        end = int(rng.integers(start + 1, len(depths)))
        pieces = []
        for slot in rng.permutation(3):
            position, available = int(pushed[slot, end]), pushed[slot, start]
            merged = len(set(pushed[slot, start + 1 : end + 1])) == 1
            if not merged or available <= position or rng.random() < 0.3:
                continue
            tokens = int(rng.integers(1, min(available - position, 7) + 1))
            logits = int(rng.integers(tokens + 1)) if rng.random() < 0.6 else 0
            ids = texts[slot][position : position + tokens] if start == 0 else ()
            pieces.append(Piece(int(slot), position, tokens, logits, ids))
            pushed[slot, start + 1 : end + 1] = position + tokens
        if not pieces:
            continue
        logits_read = cached.forward(depths[start], depths[end], pieces)
        expected = [
            network(torch.tensor([texts[p.slot][: p.position + p.tokens]]), exit_layer=depths[end])[0, -p.logits :]
            for p in pieces
            if p.logits
        ]
        assert (logits_read is None) == (not expected)
        if logits_read is not None:
            torch.testing.assert_close(logits_read, torch.cat(expected), rtol=1e-4, atol=1e-5)
            read.add(depths[end])
    assert read == set(depths[1:])


class Checked(Decoder):
    """A decoder that compares the logits behind every decision with those of the whole text, uncached."""

    decisions = 0

    def _finish_step(self, sequence: Decoding, logits: Tensor, stop_ids: Collection[int]) -> list[Token]:
        node, level = sequence.node, self.cascade.levels[sequence.node.level]
        upto = node.verified_from + node.run
        text = [*sequence.text, *(token.token_id for token in sequence.tentative[:upto])]
        if not node.bonus and node.run:
            text.pop()
        with torch.inference_mode():
            whole = with_heads()[level.network](torch.tensor([text]), exit_layer=level.exit_layer)[0]
        listed = logits.isfinite()
        assert (listed.sum(dim=-1) == (level.shortlist or VOCABULARY)).all()
        torch.testing.assert_close(logits[listed], whole[-len(logits) :][listed], rtol=1e-3, atol=1e-4)
        Checked.decisions += 1
        return super()._finish_step(sequence, logits, stop_ids)


@cache
def with_heads() -> dict[str, Llama]:
    """The tiny networks; the target has blocks at exits 1 and 3 and an LM head at 2, the draft an adapter at 1."""
    made = copy.deepcopy(networks())
    kinds = {1: Kind.BLOCK, 2: Kind.LM_HEAD, 3: Kind.BLOCK}
    attach(made["big"], {layer: random_head(kind, made["big"], layer) for layer, kind in kinds.items()})
    attach(made["draft"], {1: random_head(Kind.ADAPTER, made["draft"], 7)})
    return made


@pytest.mark.parametrize("seed", range(2))
def test_decoding_with_heads_is_lossless(seed: int) -> None:
    """Random cascades at batch 1 and 3: the target's own text, and every level's logits as on the whole text."""
    rng = np.random.default_rng(seed)
    before = Checked.decisions
    for case in range(6):
        cascade, slots = random_cascade(rng), (1, 3)[case % 2]
        prompts = [rng.integers(0, VOCABULARY, int(rng.integers(1, 12))).tolist() for _ in range(slots + 1)]
        plain = Decoder(autoregressive(), networks(), slots=4, max_tokens=60)
        expected, _ = plain.decode(prompts, 16, new_chooser=lambda index: Greedy())
        decoder = Checked(cascade, with_heads(), slots=slots, max_tokens=60)
        outputs, _ = decoder.decode(prompts, 16, new_chooser=lambda index: Greedy())
        assert outputs == expected, cascade
    assert Checked.decisions - before > 100


@torch.inference_mode()
def test_an_lm_head_reads_in_place_of_the_network_s() -> None:
    """Its own norm and matrix, on the hidden states as they are; the network's own elsewhere."""
    network = attach(copy.deepcopy(six_layers()), {})
    head = random_head(Kind.LM_HEAD, network, 1)
    assert isinstance(head, LmHead)
    tokens = torch.tensor([[3, 1, 4]])
    states = network.span(network.embedding(tokens), 0, 2, network.rotations[None, :3, None], attend_causally)
    plain = network(tokens)
    attach(network, {2: head})
    expected = states @ (head.linear.weight * head.norm.weight).T / rms(states)
    torch.testing.assert_close(network(tokens, 2), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(network(tokens), plain)


def rms(x: Tensor) -> Tensor:
    """Root mean square of the last axis."""
    return x.square().mean(-1, keepdim=True).sqrt()


def test_only_exits_in_use_take_memory() -> None:
    """A head whose exit is no level is neither run nor given a cache."""
    cached = CachedNetwork(six_layers(), slots=1, max_tokens=8, exits=(3, 6))
    assert set(cached._blocks) == {3}
    untrained = new_head(Kind.ADAPTER, six_layers())
    assert isinstance(untrained, AdapterHead)
    x = torch.randn(2, 32)
    assert torch.equal(untrained(x, x, lambda layer, q, k, v: v), x)
