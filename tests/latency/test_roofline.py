"""Latency from bytes, FLOPs and peaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from latency_fakes import NETWORK

from hispec_sim.errors import InputError
from hispec_sim.latency import NetworkCost, read_profile, write_profile
from hispec_sim.latency.devices import known_devices, usable_tensor_parallels, weight_bytes
from hispec_sim.latency.roofline import all_reduce_ms, attention_ms, gemm_ms, roofline_profile
from hispec_sim.latency.shard import Shard
from hispec_sim.networks import known_networks

H100 = known_devices()["h100_sxm"]
IDEAL = H100.ideal()


@pytest.mark.parametrize("name", known_devices())
def test_every_device_says_where_its_numbers_are_from(name):
    device = known_devices()[name]
    assert "data sheet" in device.source
    assert device.ideal().memory_efficiency == 1


def test_one_token_reads_the_weights_and_many_compute():
    assert gemm_ms(IDEAL, 8192, 8192, 1) == pytest.approx(2 * 8192 * 8192 / 3.35e12 * 1e3, rel=1e-3)
    assert gemm_ms(IDEAL, 8192, 8192, 8192) == pytest.approx(2 * 8192**3 / 989e12 * 1e3)


def test_attention_reads_the_cache_once_however_many_query_tokens():
    one = attention_ms(IDEAL, (64, 8, 128), 4, 1, 8192)
    assert one == pytest.approx(4 * 2 * 2 * 8 * 128 * 8192 / 3.35e12 * 1e3, rel=1e-2)
    assert attention_ms(IDEAL, (64, 8, 128), 4, 4, 8192) == pytest.approx(one, rel=0.01)


def test_all_reduce_sends_twice_the_message_less_a_share():
    assert all_reduce_ms(IDEAL, 450_000_000, 4) == pytest.approx(1.5)


def test_a_decode_step_of_the_ideal_device_is_its_weights_over_its_bandwidth():
    spec = known_networks()["llama-3.1-8b"]
    cost = NetworkCost(roofline_profile(spec, IDEAL, (1,)), tensor_parallel=1)
    at = {"first_layer": 0, "last_layer": 32, "batch": 1, "tokens": 1, "logits": 1}
    weights_ms = 2 * (32 * spec.layer_parameters + spec.head_parameters) / 3.35e12 * 1e3
    assert float(cost.forward_ms(**at, context=1)) == pytest.approx(weights_ms, rel=2e-3)


def test_it_is_a_profile_like_any_other(tmp_path):
    profile = roofline_profile(known_networks()["llama-3.2-3b"], known_devices()["l40s"])
    again = read_profile(write_profile(profile, tmp_path / "roofline.csv"))
    assert again.tensor_parallels == (1, 2, 4, 8)
    assert {row.origin for row in again.rows} == {"derived"}
    assert again.provenance.software["memory"] == "864 GB/s at 0.8"


def test_what_fits():
    networks = known_networks()
    assert weight_bytes(networks["llama-3.1-70b"]) == pytest.approx(141.1e9, rel=1e-3)
    assert weight_bytes(networks["llama-3.2-1b"]) == pytest.approx(2.47e9, rel=1e-2)
    assert usable_tensor_parallels(networks["llama-3.1-70b"], H100) == (2, 4, 8)
    assert usable_tensor_parallels(networks["llama-3.1-70b"], known_devices()["l40s"]) == (4, 8)
    assert usable_tensor_parallels(NETWORK, H100) == (1, 2)  # two KV heads


def test_errors():
    giant = replace(known_networks()["llama-3.1-70b"], n_layers=1000)
    with pytest.raises(InputError, match="does not fit on up to 8 h100_sxm"):
        roofline_profile(giant, H100)
    with pytest.raises(InputError, match="2 KV heads do not divide evenly over tensor_parallel 4"):
        Shard(NETWORK, 4)
    with pytest.raises(InputError, match="memory_gb_s must be a finite number above 0"):
        replace(H100, memory_gb_s=0)
    with pytest.raises(InputError, match="compute_efficiency must be above 0 and at most 1"):
        replace(H100, compute_efficiency=1.2)
