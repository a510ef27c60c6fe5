"""Latency profiles from NVIDIA's measured kernel tables, the source of the shipped GPU profiles.

The numbers are kernel times as under CUDA graphs: no launch overhead, sampling or scheduling (`HostOverhead`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product

from hispec_sim.errors import InputError
from hispec_sim.latency.aiconfigurator_tables import AiconfiguratorTables, Answer
from hispec_sim.latency.devices import known_devices, usable_tensor_parallels
from hispec_sim.latency.grids import (
    BATCHES,
    CONTEXTS,
    GEMM_TOKENS,
    MESSAGE_TOKENS,
    PREFILL_BATCHES,
    PREFILL_CONTEXTS,
    PREFILL_TOKENS,
    SMOOTH_TOKENS,
    VERIFY_TOKENS,
)
from hispec_sim.latency.profile import LatencyProfile, Provenance
from hispec_sim.latency.profile_row import Origin, ProfileRow
from hispec_sim.latency.shard import Shard
from hispec_sim.networks import NetworkSpec

BACKENDS = ("sglang", "vllm", "trtllm")

METHOD = (
    "Kernel times from aiconfigurator's tables, summed, without host overhead. measured: the shape is a row of the "
    "tables or a sum of rows. derived: interpolated between rows by the package, or its formula (elementwise, "
    "embedding), or verification as decode attention with the query tokens packed into the heads, or prefill."
)


def import_profile(
    network: NetworkSpec, device: str, *, backend: str = "sglang", date: str, command: str
) -> LatencyProfile:
    """The profile of `network` at every usable tensor parallelism. InputError without the package or the device."""
    if backend not in BACKENDS:
        raise InputError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if device not in known_devices():
        raise InputError(f"unknown device {device!r}; known devices are {', '.join(sorted(known_devices()))}")
    tensor_parallels = usable_tensor_parallels(network, known_devices()[device])
    if not tensor_parallels:
        raise InputError(f"{network.name} does not fit on up to 8 {device}: nothing to profile")
    tables = AiconfiguratorTables(device, backend)
    rows = tuple(row for tp in tensor_parallels for row in _rows(network, tables, tp))
    provenance = Provenance(dtype="bfloat16", software=tables.software, date=date, command=command, method=METHOD)
    return LatencyProfile(device=device, network=network, provenance=provenance, rows=rows)


def _rows(network: NetworkSpec, tables: AiconfiguratorTables, tensor_parallel: int) -> Iterator[ProfileRow]:
    hidden, shard = network.hidden_size, Shard(network, tensor_parallel)

    def over(op: str, grid: tuple[int, ...], ask: Callable[[int], Answer]) -> Iterator[ProfileRow]:
        for tokens in grid:
            ms, measured = ask(tokens)
            yield ProfileRow(op, tensor_parallel, 1, tokens, None, ms, _origin(measured))

    yield from over("layer_linear", GEMM_TOKENS, lambda m: _sum(tables.gemm(n, k, m) for n, k in shard.layer_gemms))
    yield from over("lm_head", GEMM_TOKENS, lambda m: tables.gemm(shard.vocab_size, hidden, m))
    yield from over(
        "layer_elementwise",
        SMOOTH_TOKENS,
        lambda m: _sum(tables.elementwise(read, written, m) for read, written in shard.layer_elementwise),
    )
    yield from over("embedding", SMOOTH_TOKENS, lambda m: tables.embedding(shard.vocab_size, hidden, m))
    if tensor_parallel > 1:
        yield from over(
            "all_reduce_custom", MESSAGE_TOKENS, lambda m: tables.custom_all_reduce(hidden, tensor_parallel, m)
        )
        yield from over("all_reduce_nccl", MESSAGE_TOKENS, lambda m: tables.nccl_all_reduce(hidden, tensor_parallel, m))
    for batch, tokens, context in product(BATCHES, VERIFY_TOKENS, CONTEXTS):
        ms, measured = tables.verify_attention(*shard.heads, batch, tokens, context)
        yield ProfileRow("attention", tensor_parallel, batch, tokens, context, ms, _origin(measured))
    for batch, tokens, context in product(PREFILL_BATCHES, PREFILL_TOKENS, PREFILL_CONTEXTS):
        ms = _prefill_ms(tables, shard, batch, tokens, context)
        yield ProfileRow("attention_prefill", tensor_parallel, batch, tokens, context, ms, "derived")


def _prefill_ms(tables: AiconfiguratorTables, shard: Shard, batch: int, tokens: int, context: int) -> float:
    """Long query spans, causal: with q new tokens after p cached ones a query attends to p + (q + 1) / 2 on average.

    A mean context below (q + 1) / 2 cannot happen, yet the grid needs the point: the time without cached tokens is
    scaled by the context, as work is, so that interpolation from a possible point is not bent. No point is faster
    than reading the KV cache once, which the package's prefix lookup would allow for short spans.
    """
    read_ms, _ = tables.decode_attention(*shard.heads, batch, context)
    if tokens <= VERIFY_TOKENS[-1]:  # where the two attention tables meet they must agree
        ms, _ = tables.verify_attention(*shard.heads, batch, tokens, context)
    else:
        least = (tokens + 1) / 2
        ms, _ = tables.prefill_attention(*shard.heads, batch, tokens, max(0, round(context - least)))
        ms *= min(1.0, context / least)
    return max(ms, read_ms)


def _sum(answers: Iterable[Answer]) -> Answer:
    answers = list(answers)
    return sum(ms for ms, _ in answers), all(measured for _, measured in answers)


def _origin(measured: bool) -> Origin:
    return "measured" if measured else "derived"
