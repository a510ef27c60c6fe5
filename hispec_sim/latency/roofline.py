"""A latency profile from nothing but bytes, FLOPs and a device's peaks, where no measurement exists.

Williams et al., "Roofline" (CACM 2009): a kernel takes the longer of moving its bytes and doing its arithmetic. To
that comes the least time of a kernel, which is what small networks are made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from hispec_sim.errors import InputError
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.latency.devices import BF16_BYTES, DeviceSpec, known_devices, usable_tensor_parallels
from hispec_sim.latency.grids import (
    BATCHES,
    CONTEXTS,
    GEMM_TOKENS,
    MESSAGE_TOKENS,
    PREFILL_BATCHES,
    PREFILL_CONTEXTS,
    PREFILL_TOKENS,
    SHORTLISTS,
    SMOOTH_TOKENS,
    VERIFY_TOKENS,
)
from hispec_sim.latency.ops import shortlist_op
from hispec_sim.latency.profile import LatencyProfile, Provenance
from hispec_sim.latency.profile_row import ProfileRow
from hispec_sim.latency.shard import Shard
from hispec_sim.networks import NetworkSpec

METHOD = (
    "Computed, not measured: the longer of bytes over bandwidth and FLOPs over peak, each at the stated share of the "
    "device's peak, plus the least time of a kernel; ring all-reduce over the link."
)


def roofline_profile(
    spec: NetworkSpec,
    device: DeviceSpec,
    tensor_parallel: tuple[int, ...] | None = None,
    *,
    date: str = "computed",
    command: str = "hispec_sim.latency.roofline.roofline_profile",
) -> LatencyProfile:
    """The bf16 profile of `spec` on `device`; every row is `derived`.

    `tensor_parallel` defaults to all that split the heads and fit in memory. Raises InputError when none does or a
    given one does not divide the heads.
    """
    degrees = usable_tensor_parallels(spec, device) if tensor_parallel is None else tensor_parallel
    if not degrees:
        raise InputError(f"{spec.name} does not fit on up to 8 {device.name}: give a larger device")
    software = {
        "memory": f"{device.memory_gb_s:g} GB/s at {device.memory_efficiency:g}",
        "compute": f"{device.bf16_tflops:g} TFLOPS at {device.compute_efficiency:g}",
        "link": f"{device.link_gb_s:g} GB/s",
        "least": f"kernel {device.kernel_ms:g} ms, all-reduce {device.all_reduce_ms:g} ms",
        "peaks": device.source,
    }
    return LatencyProfile(
        device=device.name,
        network=spec,
        provenance=Provenance(dtype="bfloat16", software=software, date=date, command=command, method=METHOD),
        rows=tuple(row for degree in degrees for row in _rows(Shard(spec, degree), device)),
    )


def _rows(shard: Shard, device: DeviceSpec) -> Iterator[ProfileRow]:
    hidden, degree = shard.network.hidden_size, shard.tensor_parallel
    for m in GEMM_TOKENS:
        layer_ms = sum(gemm_ms(device, n, k, m) for n, k in shard.layer_gemms)
        yield ProfileRow("layer_linear", degree, 1, m, None, layer_ms, "derived")
        yield ProfileRow("lm_head", degree, 1, m, None, gemm_ms(device, shard.vocab_size, hidden, m), "derived")
        for shortlist in SHORTLISTS:
            if shortlist < shard.network.vocab_size:
                ms = gemm_ms(device, math.ceil(shortlist / degree), hidden, m)
                yield ProfileRow(shortlist_op(shortlist), degree, 1, m, None, ms, "derived")
    for m in SMOOTH_TOKENS:
        elementwise_ms = sum(
            _kernel_ms(device, BF16_BYTES * m * (read + written), 0) for read, written in shard.layer_elementwise
        )
        yield ProfileRow("layer_elementwise", degree, 1, m, None, elementwise_ms, "derived")
        embedding_ms = _kernel_ms(device, BF16_BYTES * m * 2 * hidden, 0)  # rows read and written
        yield ProfileRow("embedding", degree, 1, m, None, embedding_ms, "derived")
    if degree > 1:
        for m in MESSAGE_TOKENS:
            ms = all_reduce_ms(device, BF16_BYTES * m * hidden, degree)
            yield ProfileRow("all_reduce_custom", degree, 1, m, None, ms, "derived")
            yield ProfileRow("all_reduce_nccl", degree, 1, m, None, ms, "derived")  # no difference to a roofline
    for op, batches, spans, contexts in (
        ("attention", BATCHES, VERIFY_TOKENS, CONTEXTS),
        ("attention_prefill", PREFILL_BATCHES, PREFILL_TOKENS, PREFILL_CONTEXTS),
    ):
        for batch, tokens, context in product(batches, spans, contexts):
            ms = attention_ms(device, shard.heads, batch, tokens, context)
            yield ProfileRow(op, degree, batch, tokens, context, ms, "derived")


def gemm_ms(device: DeviceSpec, n: int, k: int, tokens: int) -> float:
    """(tokens, k) @ (k, n) in bf16: weights, input and output moved once."""
    return _kernel_ms(device, BF16_BYTES * (n * k + tokens * (n + k)), 2 * n * k * tokens)


def attention_ms(device: DeviceSpec, heads: tuple[int, int, int], batch: int, tokens: int, context: float) -> float:
    """One layer: each sequence's keys and values read once for all its query tokens; two products a query head."""
    query_heads, kv_heads, head_dim = heads
    cache = 2 * kv_heads * context
    ends = 2 * query_heads * tokens
    flops = 4 * query_heads * head_dim * tokens * context * batch
    return _kernel_ms(device, BF16_BYTES * head_dim * batch * (cache + ends), flops)


def all_reduce_ms(device: DeviceSpec, message_bytes: int, tensor_parallel: int) -> float:
    """Ring all-reduce: each GPU sends 2 (n - 1) / n of the message over its link."""
    sent = 2 * (tensor_parallel - 1) / tensor_parallel * message_bytes
    return device.all_reduce_ms + sent / (device.link_gb_s * 1e9) * 1e3


def _kernel_ms(device: DeviceSpec, moved_bytes: float, flops: float) -> float:
    memory_ms = moved_bytes / (device.memory_gb_s * 1e9 * device.memory_efficiency) * 1e3
    compute_ms = flops / (device.bf16_tflops * 1e12 * device.compute_efficiency) * 1e3
    return device.kernel_ms + max(memory_ms, compute_ms)


def whole_forwards(profile: LatencyProfile, tensor_parallel: int) -> NetworkCost:
    """Prices to look at: with whichever all-reduce the profile has, and beyond its grid where that is asked."""
    custom = profile.table("all_reduce_custom", tensor_parallel) is not None
    return NetworkCost(
        profile,
        tensor_parallel=tensor_parallel,
        all_reduce="custom" if custom else "nccl",
        allow_extrapolation=True,
    )


@dataclass(frozen=True, slots=True)
class RooflineShare:
    """A forward through the whole network: what the profile says, and the bare roofline of the device's peaks."""

    tensor_parallel: int
    batch: int
    tokens: int
    context: int
    profile_ms: float
    roofline_ms: float


def roofline_shares(profile: LatencyProfile) -> tuple[RooflineShare, ...]:
    """Decode at batch 1 and 32 for each tensor parallelism; empty for a device whose peaks are not known.

    All-reduces are the same on both sides of the comparison only in count: the roofline's cost their bytes alone.
    """
    device = known_devices().get(profile.device)
    if device is None or profile.provenance.dtype != "bfloat16":
        return ()
    bare = roofline_profile(profile.network, device.ideal(), profile.tensor_parallels)
    shares = []
    for degree, batch in product(profile.tensor_parallels, (1, 32)):
        forward_ms = [
            float(
                whole_forwards(source, degree).forward_ms(
                    first_layer=0,
                    last_layer=profile.network.n_layers,
                    batch=batch,
                    tokens=batch,
                    logits=batch,
                    context=1024,
                )
            )
            for source in (profile, bare)
        ]
        shares.append(RooflineShare(degree, batch, batch, 1024, forward_ms[0], forward_ms[1]))
    return tuple(shares)
