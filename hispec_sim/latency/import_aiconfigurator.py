"""Latency profiles from NVIDIA's measured kernel tables, the source of the shipped GPU profiles.

The numbers are kernel times as under CUDA graphs: no launch overhead, sampling or scheduling (`HostOverhead`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hispec_sim.errors import InputError
from hispec_sim.latency.aiconfigurator_tables import AiconfiguratorTables, Answer
from hispec_sim.latency.devices import known_devices, usable_tensor_parallels
from hispec_sim.latency.profile import LatencyProfile, Origin, ProfileRow, Provenance
from hispec_sim.networks import NetworkSpec

BACKENDS = ("sglang", "vllm", "trtllm")

# Both sides of the tile sizes where a library may switch kernels: a step there must not be smoothed over.
GEMM_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 129, 256, 257, 512, 513, 1024, 1025, 2048, 4096, 16384)
SMOOTH_TOKENS = (1, 16, 64, 256, 1024, 4096, 16384)
MESSAGE_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048, 16384)

BATCHES = (1, 4, 8, 16, 32, 64, 128)
VERIFY_TOKENS = (1, 4, 8, 16)
CONTEXTS = (1, 256, 1024, 2048, 4096, 8192, 32768)

PREFILL_BATCHES = (1, 16, 128)
PREFILL_TOKENS = (16, 128, 1024, 8192)
PREFILL_CONTEXTS = (1, 512, 2048, 8192, 32768)

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
    hidden, vocab = network.hidden_size, network.vocab_size // tensor_parallel

    def over(op: str, grid: tuple[int, ...], ask: Callable[[int], Answer]) -> Iterator[ProfileRow]:
        for tokens in grid:
            ms, measured = ask(tokens)
            yield ProfileRow(op, tensor_parallel, 1, tokens, None, ms, _origin(measured))

    yield from over("layer_linear", GEMM_TOKENS, lambda m: _layer_linear(network, tables, tensor_parallel, m))
    yield from over("lm_head", GEMM_TOKENS, lambda m: tables.gemm(vocab, hidden, m))
    yield from over(
        "layer_elementwise", SMOOTH_TOKENS, lambda m: _layer_elementwise(network, tables, tensor_parallel, m)
    )
    yield from over("embedding", SMOOTH_TOKENS, lambda m: tables.embedding(vocab, hidden, m))
    if tensor_parallel > 1:
        yield from over(
            "all_reduce_custom",
            MESSAGE_TOKENS,
            lambda m: tables.custom_all_reduce(hidden, tensor_parallel, m),
        )
        yield from over("all_reduce_nccl", MESSAGE_TOKENS, lambda m: tables.nccl_all_reduce(hidden, tensor_parallel, m))
    yield from _attention(network, tables, tensor_parallel)
    yield from _attention_prefill(network, tables, tensor_parallel)


def _layer_linear(network: NetworkSpec, tables: AiconfiguratorTables, tensor_parallel: int, tokens: int) -> Answer:
    """QKV, output, gate and up, down: split over the GPUs by columns, rows, columns, rows."""
    hidden, intermediate = network.hidden_size, network.intermediate_size // tensor_parallel
    queries = network.n_heads * network.head_dim // tensor_parallel
    keys_values = 2 * network.n_kv_heads * network.head_dim // tensor_parallel
    return _sum(
        tables.gemm(queries + keys_values, hidden, tokens),
        tables.gemm(hidden, queries, tokens),
        tables.gemm(2 * intermediate, hidden, tokens),
        tables.gemm(hidden, intermediate, tokens),
    )


def _layer_elementwise(network: NetworkSpec, tables: AiconfiguratorTables, tensor_parallel: int, tokens: int) -> Answer:
    """Two kernels of residual addition and norm, and the gated activation (rotary embedding is in attention)."""
    hidden, intermediate = network.hidden_size, network.intermediate_size // tensor_parallel
    norm = tables.elementwise(2 * hidden, 2 * hidden, tokens)
    return _sum(norm, norm, tables.elementwise(2 * intermediate, intermediate, tokens))


def _origin(measured: bool) -> Origin:
    return "measured" if measured else "derived"


def _sum(*answers: Answer) -> Answer:
    return sum(ms for ms, _ in answers), all(measured for _, measured in answers)


def _attention(network: NetworkSpec, tables: AiconfiguratorTables, tensor_parallel: int) -> Iterator[ProfileRow]:
    heads, kv_heads = network.n_heads // tensor_parallel, network.n_kv_heads // tensor_parallel
    for batch in BATCHES:
        for tokens in VERIFY_TOKENS:
            for context in CONTEXTS:
                ms, measured = tables.verify_attention(heads, kv_heads, network.head_dim, batch, tokens, context)
                yield ProfileRow("attention", tensor_parallel, batch, tokens, context, ms, _origin(measured))


def _attention_prefill(
    network: NetworkSpec, tables: AiconfiguratorTables, tensor_parallel: int
) -> Iterator[ProfileRow]:
    """Long query spans, causal: with q new tokens after p cached ones a query attends to p + (q + 1) / 2 on average.

    A mean context below (q + 1) / 2 cannot happen, yet the grid needs the point: the time without cached tokens is
    scaled by the context, as work is, so that interpolation from a possible point is not bent. No point is faster
    than reading the KV cache once, which the package's prefix lookup would allow for short spans.
    """
    shape = (network.n_heads // tensor_parallel, network.n_kv_heads // tensor_parallel, network.head_dim)
    for batch in PREFILL_BATCHES:
        for tokens in PREFILL_TOKENS:
            for context in PREFILL_CONTEXTS:
                read_ms, _ = tables.decode_attention(*shape, batch, context)
                if tokens == PREFILL_TOKENS[0]:  # the two attention tables meet here
                    ms, _ = tables.verify_attention(*shape, batch, tokens, context)
                else:
                    least = (tokens + 1) / 2
                    ms, _ = tables.prefill_attention(*shape, batch, tokens, max(0, round(context - least)))
                    ms *= min(1.0, context / least)
                yield ProfileRow(
                    "attention_prefill", tensor_parallel, batch, tokens, context, max(ms, read_ms), "derived"
                )
