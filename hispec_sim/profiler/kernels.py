"""Where the time of one forward goes: torch's profiler over a step, by class of operator, against measured ceilings.

Bytes and FLOPs are those that shapes demand: every input read once, every output written once. What the machine can do
is measured in the same run, by one large copy and one large product. A CPU's operators are timed themselves;
on CUDA the kernels that they launch are. Those of a CUDA graph no operator has launched: the step is timed as a replay,
as decoding has it, and its operators are profiled in the same work without a graph.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from hispec_sim.errors import InputError
from hispec_sim.models.cache import Piece
from hispec_sim.models.llama import Llama, dtype_of
from hispec_sim.profiler.clock import Clock
from hispec_sim.profiler.timed_network import TimedNetwork

STEPS = 9
GEMMS = ("aten::linear", "aten::mm", "aten::matmul", "aten::addmm", "mkldnn::_linear_pointwise")
BLOCKED_GEMM = "hispec::blocked_product"
ATTENTION = "aten::scaled_dot_product_attention"
NORMS = ("aten::rms_norm", "aten::_fused_rms_norm")
NORM_PARTS = ("aten::linalg_vector_norm", "aten::hypot_", "aten::addcdiv")
"""With a product by the weights, the norm of `models.norm`."""
ELEMENTWISE = ("aten::silu", "aten::mul", "aten::add", "aten::add_", "aten::silu_")
COPIES = ("copy", "index", "cat", "repeat", "gather", "scatter", "contiguous", "clone", "to", "_to_copy", "reshape",
          "flatten")  # fmt: skip
COPY_BYTES, GEMM_SIZE = 1 << 28, 1024
CUDA_COPY_BYTES, CUDA_GEMM_SIZE = 1 << 30, 8192
"""Time on CUDA includes the launch: what a GPU does in microseconds would tell of that."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the machine was seen to do: bytes read or written per second, and FLOPs per second."""

    bytes_per_s: float
    flops_per_s: float

    def floor_ms(self, flops: float, n_bytes: float) -> float:
        """The least time of so much work."""
        return 1000 * max(flops / self.flops_per_s, n_bytes / self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class Kernel:
    """All operators of one class in a step: how often, their milliseconds, FLOPs and bytes."""

    name: str
    calls: int
    ms: float
    flops: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """One step. `step_ms`: without the profiler; `profiled_ms`: with it; `gaps_ms`: of the latter, outside of all
    operators. `replayed`: the former is a CUDA graph's, and the latter the same work's without it."""

    name: str
    step_ms: float
    profiled_ms: float
    kernels: tuple[Kernel, ...]
    replayed: bool = False

    @property
    def gaps_ms(self) -> float:
        """Time between operators: Python, and waiting for launches."""
        return max(0.0, self.profiled_ms - sum(kernel.ms for kernel in self.kernels))

    def floor_ms(self, ceilings: Ceilings) -> float:
        """What the step would take with every operator at a ceiling and nothing between them."""
        return sum(ceilings.floor_ms(kernel.flops, kernel.bytes) for kernel in self.kernels)


def measure_ceilings(device: torch.device, dtype: torch.dtype, clock: Clock) -> Ceilings:
    """By a copy that no cache holds and a product that is all arithmetic; the best of several runs of each."""
    copied, size = (CUDA_COPY_BYTES, CUDA_GEMM_SIZE) if device.type == "cuda" else (COPY_BYTES, GEMM_SIZE)
    source = torch.ones(copied // dtype.itemsize, dtype=dtype, device=device)
    target = torch.empty_like(source)
    matrix = torch.rand(size, size, device=device).to(dtype)
    copy_ms = min(clock.timed(lambda: target.copy_(source))[0] for _ in range(6))
    gemm_ms = min(clock.timed(lambda: matrix @ matrix)[0] for _ in range(8))
    return Ceilings(1000 * 2 * copied / copy_ms, 1000 * 2 * size**3 / gemm_ms)


def break_down(
    network: Llama, name: str, *, batch: int, query_tokens: int, context: int, clock: Clock, trace: Path | None = None
) -> Breakdown:
    """All layers with their logits for `query_tokens` tokens in each of `batch` sequences, several times; medians.

    `trace`: where the last step goes as a Chrome trace. Raises InputError if the step does not fit.
    """
    if not query_tokens <= context <= network.config.max_positions:
        raise InputError(
            f"a step of {query_tokens} tokens at context {context} does not fit the {network.config.max_positions} "
            f"positions of network {network.config.shape.name}"
        )
    n_layers = network.config.shape.n_layers
    cached = TimedNetwork(network, slots=batch, max_tokens=context, exits=())
    pieces = [Piece(i, context - query_tokens, query_tokens, query_tokens, [0] * query_tokens) for i in range(batch)]

    def step() -> None:
        cached.forward(0, n_layers, pieces)

    cached.settle_forward(0, n_layers, pieces)
    for _ in range(3):
        step()
    replayed, step_ms = cached.replays, statistics.median(clock.timed(step)[0] for _ in range(STEPS))
    cached.launch_singly()
    cuda = network.embedding.weight.is_cuda
    profiled, runs = [], []
    for number in range(STEPS):
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
        with profile(activities=activities, record_shapes=True) as found:
            profiled.append(clock.timed(step)[0])
        runs.append([event for event in found.events() or [] if _is_root(event)])
        if trace is not None and number == STEPS - 1:
            found.export_chrome_trace(str(trace))
    kernels = _kernels(runs, network, dtype_of(network).itemsize, cuda=cuda)
    return Breakdown(name, step_ms, statistics.median(profiled), tuple(kernels), replayed)


def _is_root(event: Any) -> bool:
    """An operator that no other has called; their times do not overlap."""
    return event.cpu_parent is None and "::" in event.name and event.device_type.name == "CPU"


def _kernels(runs: Sequence[Sequence[Any]], network: Llama, itemsize: int, *, cuda: bool) -> list[Kernel]:
    """By class, the longest first. Every run is the same sequence of operators; each is taken at its median."""
    length = min(len(run) for run in runs)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for same in zip(*(run[:length] for run in runs), strict=True):
        us = statistics.median(float(e.device_time_total if cuda else e.cpu_time_total) for e in same)
        name, flops, n_bytes = classify(same[0].name, [tuple(s) for s in same[0].input_shapes or []], network, itemsize)
        found.setdefault(name, []).append((us / 1000, flops, n_bytes))
    kernels = [Kernel(name, len(each), *(sum(column) for column in zip(*each, strict=True)))
               for name, each in found.items()]  # fmt: skip
    return sorted(kernels, key=lambda kernel: -kernel.ms)


def classify(op: str, shapes: Sequence[tuple[int, ...]], network: Llama, itemsize: int) -> tuple[str, float, float]:
    """The class of an operator, and the FLOPs and bytes that the shapes of its inputs demand."""
    sizes = [math.prod(shape) for shape in shapes if shape]
    largest, inputs = max(sizes, default=0), sum(sizes)
    shape = network.config.shape
    if op in GEMMS and len(shapes) > 1 and len(shapes[1]) == 2:
        inner = shapes[0][-1]
        outer = next(size for size in (*shapes[1][::-1], inner) if size != inner or shapes[1][0] == shapes[1][1])
        return _gemm(math.prod(shapes[0][:-1]), inner, outer, shape.vocab_size, itemsize)
    if op == BLOCKED_GEMM:
        blocks, inner, block = shapes[1]
        cut = blocks * block - shape.vocab_size  # the last block of an LM head is filled up
        outer = shape.vocab_size if 0 <= cut < block else blocks * block
        return _gemm(math.prod(shapes[0][:-1]), inner, outer, shape.vocab_size, itemsize)
    if op == ATTENTION:
        batch, heads, tokens, head_dim = shapes[0]
        seen = shapes[1][2]
        n_bytes = itemsize * (2 * sizes[0] + sizes[1] + sizes[2])
        return "attention", 4.0 * batch * heads * tokens * seen * head_dim, float(n_bytes)
    if op in NORMS:
        return "norm", 4.0 * largest, 2.0 * itemsize * largest
    if op in NORM_PARTS or (op == "aten::mul" and len(shapes) > 1 and len(shapes[1]) == 1):
        return "norm", float(largest), float(itemsize * largest)
    if op in ("aten::mul_", "aten::view_as_complex", "aten::view_as_real"):
        turned = op == "aten::mul_"  # complex numbers: two of the network's each, six FLOPs
        return "rope", 6.0 * largest * turned, 4.0 * itemsize * largest * turned
    if op in ELEMENTWISE:
        return "activation and additions", float(largest), float(itemsize * (inputs + largest))
    if op == "aten::embedding":
        rows = math.prod(shapes[1]) if len(shapes) > 1 else 0
        return "embedding", 0.0, 2.0 * itemsize * rows * shape.hidden_size
    if any(op.removeprefix("aten::").startswith(copy) for copy in COPIES):
        moved = min(sizes) if "index" in op and sizes else largest
        return "copies", 0.0, 2.0 * itemsize * moved
    return "the rest", 0.0, 0.0


def _gemm(rows: int, inner: int, outer: int, vocab_size: int, itemsize: int) -> tuple[str, float, float]:
    n_bytes = itemsize * (rows * inner + inner * outer + rows * outer)
    name = "LM head" if outer == vocab_size else f"GEMM {inner} x {outer}"
    return name, 2.0 * rows * inner * outer, float(n_bytes)
