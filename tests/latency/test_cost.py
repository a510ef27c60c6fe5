"""Putting a forward together from the parts of a profile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latency_fakes import SHIPPED, SMALL, WHOLE_LAYER, power_law_ms

from hispec_sim.errors import InputError
from hispec_sim.latency import HostOverhead, NetworkCost, read_profile
from hispec_sim.latency.cost import PARTS

BIG = read_profile(next(path for path in SHIPPED if path.match("h100_sxm/llama-3.1-70b.csv")))
COST = NetworkCost(BIG, tensor_parallel=4)


def test_by_hand():
    cost = NetworkCost(SMALL, tensor_parallel=2, host=HostOverhead(per_forward_ms=3.0))
    parts = cost.parts_ms(first_layer=0, last_layer=8, batch=4, tokens=16, logits=4, context=64)
    assert {name: float(ms) for name, ms in parts.items()} == pytest.approx(
        {
            "forward": 0,
            "embedding": 0.1 * 4,
            "linear": 8 * 4.0,
            "elementwise": 8 * 0.2 * 4,
            "attention": 8 * power_law_ms(4, 4, 64),
            "all_reduce": (2 * 8 + 1) * 0.01 * 16,
            "layer": 0,
            "exit_head": 0,
            "lm_head": 0.5 * 2,
            "host": 3.0,
        }
    )


def test_whole_layers():
    parts = NetworkCost(WHOLE_LAYER, tensor_parallel=1).parts_ms(
        first_layer=2, last_layer=8, batch=4, tokens=16, logits=0, context=64
    )
    assert float(parts["layer"]) == pytest.approx(6 * power_law_ms(4, 4, 64))
    assert sum(float(ms) for name, ms in parts.items() if name != "layer") == 0


@given(
    first=st.integers(0, 80),
    layers=st.integers(0, 80),
    batch=st.integers(1, 64),
    span=st.integers(1, 40),
    share=st.floats(0, 1),
    contexts=st.lists(st.integers(1, 32768), min_size=1, max_size=5),
)
def test_parts_sum_to_the_forward_in_its_shape(first, layers, batch, span, share, contexts):
    call = {
        "first_layer": first,
        "last_layer": min(80, first + layers),
        "batch": batch,
        "tokens": batch * span,
        "logits": int(share * batch * span),
        "context": np.array(contexts),
    }
    parts = COST.parts_ms(**call)
    total = COST.forward_ms(**call)
    assert tuple(parts) == PARTS
    assert total.shape == (len(contexts),)
    assert np.array_equal(total, sum(parts.values()))
    assert all((ms >= 0).all() for ms in parts.values())


@pytest.mark.parametrize("per_layer_ms", [0.0, 0.1, 0.38])
def test_two_spans_cost_what_the_whole_does_but_for_the_host(per_layer_ms):
    cost = NetworkCost(BIG, tensor_parallel=4, host=HostOverhead(per_forward_ms=0.5, per_layer_ms=per_layer_ms))
    at = {"batch": 2, "tokens": 9, "context": np.array([100, 3000])}
    lower = cost.forward_ms(first_layer=0, last_layer=20, logits=0, **at)
    upper = cost.forward_ms(first_layer=20, last_layer=80, logits=9, **at)
    whole = cost.forward_ms(first_layer=0, last_layer=80, logits=9, **at)
    np.testing.assert_allclose(lower + upper, whole + 0.5)


def test_eager_launch_hides_behind_slow_layers_only():
    at = {"first_layer": 0, "last_layer": 80, "batch": 1, "tokens": 1, "logits": 1, "context": 1024}
    parts = COST.parts_ms(**at)
    layers = sum(float(parts[name]) for name in ("linear", "elementwise", "attention", "all_reduce"))
    hidden = NetworkCost(BIG, tensor_parallel=4, host=HostOverhead(per_layer_ms=0.9 * layers / 80))
    bound = NetworkCost(BIG, tensor_parallel=4, host=HostOverhead(per_layer_ms=2.0))
    assert float(hidden.parts_ms(**at)["host"]) == pytest.approx(0, abs=1e-9)
    assert float(bound.forward_ms(**at)) == pytest.approx(80 * 2.0 + 0.19, abs=0.01)  # and embedding and head


def test_ragged_batches_are_asked_at_their_mean():
    cost = NetworkCost(SMALL, tensor_parallel=1)
    parts = cost.parts_ms(first_layer=0, last_layer=8, batch=4, tokens=10, logits=0, context=64)
    assert float(parts["attention"]) == pytest.approx(8 * power_law_ms(4, 2.5, 64))
    assert float(parts["linear"]) == pytest.approx(8 * 10**0.5)


def test_nccl_costs_more_than_the_custom_all_reduce():
    at = {"first_layer": 0, "last_layer": 80, "batch": 1, "tokens": 1, "logits": 1, "context": 1024}
    nccl = NetworkCost(BIG, tensor_parallel=4, all_reduce="nccl").parts_ms(**at)
    assert nccl["all_reduce"] > 3 * COST.parts_ms(**at)["all_reduce"]


def test_prefill_carries_on_where_verification_ends():
    def attention_ms(tokens: int) -> float:
        parts = COST.parts_ms(first_layer=0, last_layer=80, batch=1, tokens=tokens, logits=0, context=2048)
        return float(parts["attention"])

    assert attention_ms(17) == pytest.approx(attention_ms(16), rel=0.1)
    assert attention_ms(2048) > 3 * attention_ms(256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last_layer": 81}, r"layers \(0, 81\] are not within \(0, 80\]"),
        ({"first_layer": 30, "last_layer": 20}, r"layers \(30, 20\]"),
        ({"batch": 0}, "batch >= 1"),
        ({"batch": 5, "tokens": 4}, "tokens >= batch"),
        ({"logits": 3}, "logits from 0 to tokens"),
        ({"context": 40_000}, "h100_sxm/llama-3.1-70b, tensor_parallel 4, op attention: context 40000 is outside"),
        ({"batch": 200, "tokens": 200}, "op attention: batch 200 is outside the profiled range 1 to 128"),
        ({"tokens": 20_000}, "op embedding: query_tokens 20000 is outside the profiled range 1 to 16384"),
    ],
)
def test_impossible_forwards_are_errors(change, message):
    at = {"first_layer": 0, "last_layer": 80, "batch": 1, "tokens": 1, "logits": 1, "context": 1024}
    with pytest.raises(InputError, match=message):
        COST.forward_ms(**at | change)


def test_impossible_choices_are_errors():
    with pytest.raises(InputError, match="toy/tiny has no tensor_parallel 4; it has 1, 2"):
        NetworkCost(SMALL, tensor_parallel=4)
    with pytest.raises(InputError, match="all_reduce must be one of custom, nccl, got 'ring'"):
        NetworkCost(SMALL, tensor_parallel=2, all_reduce="ring")
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="per_layer_ms must be a finite time of at least 0"):
            HostOverhead(per_layer_ms=bad)


def test_extrapolation_is_recorded():
    cost = NetworkCost(BIG, tensor_parallel=4, allow_extrapolation=True)
    at = {"first_layer": 0, "last_layer": 80, "batch": 1, "tokens": 1, "logits": 1}
    inside = cost.forward_ms(**at, context=32_768)
    assert cost.extrapolated == ()
    assert cost.forward_ms(**at, context=np.array([65_536])) > inside
    [note] = cost.extrapolated
    assert note.endswith("op attention: context above 1 to 32768")


def test_elementwise_scale_multiplies_that_part_alone():
    profile = read_profile(SHIPPED[0])
    ask = {"first_layer": 0, "last_layer": 8, "batch": 2, "tokens": 6, "logits": 2, "context": 700}
    tensor_parallel = profile.tensor_parallels[0]
    plain = NetworkCost(profile, tensor_parallel=tensor_parallel).parts_ms(**ask)
    scaled = NetworkCost(profile, tensor_parallel=tensor_parallel, elementwise_scale=2.0).parts_ms(**ask)
    for part, ms in plain.items():
        assert scaled[part] == pytest.approx(ms * (2 if part == "elementwise" else 1))
