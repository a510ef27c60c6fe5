"""What the LM head of a shortlist costs, and that it is never mistaken for another's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latency_fakes import NETWORK, SHIPPED, SMALL

from hispec_sim.cascade import Bonus, Cascade, Level, State, next_step
from hispec_sim.errors import InputError
from hispec_sim.latency import NetworkCost, ProfileRow, read_profile
from hispec_sim.latency.devices import known_devices
from hispec_sim.latency.roofline import gemm_ms, roofline_profile
from hispec_sim.networks import known_networks

COST = NetworkCost(
    read_profile(next(path for path in SHIPPED if path.match("h100_sxm/llama-3.1-8b.csv"))), tensor_parallel=1
)
H100 = known_devices()["h100_sxm"]


def head_ms(cost: NetworkCost, shortlist: int | None, logits: int = 1) -> float:
    at = {"first_layer": 0, "last_layer": 1, "batch": 1, "tokens": logits, "context": 64}
    return float(cost.parts_ms(**at, logits=logits, shortlist=shortlist)["lm_head"])


def test_by_hand():
    """The embedding of one token (0.1 ms) to start, and 1 / 4 of the way to the head of 256 tokens (0.5 ms)."""
    cost = NetworkCost(SMALL, tensor_parallel=1)
    assert head_ms(cost, None) == head_ms(cost, 256) == pytest.approx(0.5)
    assert head_ms(cost, 64) == pytest.approx(0.1 + 0.4 / 4)
    at = {"first_layer": 0, "last_layer": 1, "batch": 1, "tokens": 1, "context": 64}
    assert float(cost.parts_ms(**at, logits=0, shortlist=64)["lm_head"]) == 0


def test_rows_of_a_shortlist_are_used():
    """Between a shortlist's own rows and the whole head, and between the start and them."""
    profile = replace(
        SMALL, rows=(*SMALL.rows, *(ProfileRow("lm_head_64", 1, 1, m, None, 0.3, "derived") for m in (1, 256)))
    )
    cost = NetworkCost(profile, tensor_parallel=1)
    assert [head_ms(cost, k) for k in (32, 64, 160)] == pytest.approx([0.2, 0.3, 0.4])


@given(st.integers(1, 128_256), st.integers(1, 128_256), st.integers(1, 64))
def test_shorter_is_never_slower(one, other, logits):
    shorter, longer = sorted((one, other))
    assert 0 < head_ms(COST, shorter, logits) <= head_ms(COST, longer, logits) <= head_ms(COST, None, logits)


@pytest.mark.parametrize("shortlist", [256, 1024, 4096, 16384, 65536])
@pytest.mark.parametrize("logits", [1, 64])
def test_the_roofline_computes_it_from_the_shape(shortlist, logits):
    network = known_networks()["llama-3.1-8b"]
    for degree in (1, 4):
        cost = NetworkCost(roofline_profile(network, H100, (degree,)), tensor_parallel=degree)
        assert head_ms(cost, shortlist, logits) == pytest.approx(
            gemm_ms(H100, shortlist // degree, network.hidden_size, logits)
        )


@pytest.mark.parametrize("shortlist", [0, 257])
def test_a_shortlist_is_part_of_the_vocabulary(shortlist):
    with pytest.raises(InputError, match=f"1 to 256 tokens, the size of the vocabulary, not {shortlist}"):
        head_ms(NetworkCost(SMALL, tensor_parallel=1), shortlist)
    if shortlist:
        rows = (*SMALL.rows, ProfileRow(f"lm_head_{NETWORK.vocab_size}", 1, 1, 1, None, 0.3, "derived"))
        with pytest.raises(InputError, match="shorter than the vocabulary, which has 256"):
            replace(SMALL, rows=rows)


def test_every_forward_has_the_shortlist_of_the_exit_it_reaches():
    """The draft's own, none for the target; that of the middle level where its layers run alone."""
    cascade = Cascade((Level("T", 2, shortlist=8), Level("T", 4, 2, shortlist=16), Level("T", 8, 3)), Bonus.ALWAYS)
    state = State(tentative=(5, 5, 0), pushed=(4, 3, 0), room=20, turn=2)
    forwards = next_step(cascade, state).forwards
    assert [(forward.last_layer, forward.shortlist) for forward in forwards] == [(2, 8), (4, 16), (8, None)]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((Level("T", 8, shortlist=8),), "the target, has a shortlist of 8"),
        ((Level("T", 2, shortlist=0), Level("T", 8, 1)), "level 0 must have a shortlist of at least 1 token, got 0"),
    ],
)
def test_what_is_no_shortlist(levels, message):
    with pytest.raises(InputError, match=message):
        Cascade(levels)
