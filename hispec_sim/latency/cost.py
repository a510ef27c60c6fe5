"""The price of one forward: the parts of a latency profile put together for a span of layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hispec_sim.errors import InputError
from hispec_sim.latency.forward_shape import ForwardShape
from hispec_sim.latency.gaps import Gaps
from hispec_sim.latency.in_loop import InLoop
from hispec_sim.latency.interpolation import OpInterpolator
from hispec_sim.latency.ops import exit_head_op, shortlist_of
from hispec_sim.latency.profile import LatencyProfile

ALL_REDUCES = ("custom", "nccl")
PARTS = (
    *("forward", "embedding", "linear", "elementwise", "attention", "all_reduce", "layer", "exit_head", "lm_head"),
    "host",
)
"""What a forward's time is made of. `layer` stands for the four before it in profiles that time layers whole; `forward`
is what a forward takes besides its parts, and only profiles of real decode loops have it."""


@dataclass(frozen=True, slots=True)
class HostOverhead:
    """What the host adds to the kernels' time.

    `per_forward_ms` is always added (sampling, scheduling, graph launch). `per_layer_ms` is the time to launch
    one layer's kernels eagerly: kernels run asynchronously, so a layer takes max(kernels, launch); 0 with CUDA
    graphs. Raises InputError when one is negative or not finite.
    """

    per_forward_ms: float = 0.0
    per_layer_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ("per_forward_ms", "per_layer_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"host overhead: {name} must be a finite time of at least 0, got {value!r}")


class NetworkCost:
    """Prices forwards of one network on one device at one tensor parallelism.

    `all_reduce` picks the measured implementation (`custom` or `nccl`) where tensor_parallel is above 1: two
    all-reduces a layer and one after the embedding, whose vocabulary is split too. `elementwise_scale` multiplies the
    time of norms, rope, activation and additions where the profile has them apart. Raises InputError when the
    profile lacks what is asked for.

    `pads` tells that a ragged batch takes as long as its longest sequence would in all places: so it is where a decode
    loop was measured, as the executor's does.
    """

    def __init__(
        self,
        profile: LatencyProfile,
        *,
        tensor_parallel: int,
        all_reduce: str = "custom",
        host: HostOverhead | None = None,
        elementwise_scale: float = 1.0,
        allow_extrapolation: bool = False,
    ) -> None:
        if tensor_parallel not in profile.tensor_parallels:
            offered = ", ".join(map(str, profile.tensor_parallels))
            raise InputError(
                f"latency profile {profile.name} has no tensor_parallel {tensor_parallel}; it has {offered}"
            )
        if all_reduce not in ALL_REDUCES:
            raise InputError(f"all_reduce must be one of {', '.join(ALL_REDUCES)}, got {all_reduce!r}")
        self.profile = profile
        self.tensor_parallel = tensor_parallel
        self.host = host if host is not None else HostOverhead()
        self._n_layers = profile.network.n_layers
        label = f"latency profile {profile.name}, tensor_parallel {tensor_parallel}"
        self._ops: dict[str, OpInterpolator] = {
            table.op: OpInterpolator(table, label, allow_extrapolation)
            for table in profile.tables
            if table.tensor_parallel == tensor_parallel
        }
        heads = {size: op for name, op in self._ops.items() if (size := shortlist_of(name)) is not None}
        self._heads = {size: heads[size] for size in sorted(heads)} | {profile.network.vocab_size: self._ops["lm_head"]}
        self._gaps = Gaps(self._ops, self._n_layers)
        self._in_loop = InLoop(self._ops, self._n_layers, self._usual_ms)
        self.pads = "forward" in self._ops
        self._label = label
        self._whole_layer = "layer" in self._ops
        self._elementwise_scale = elementwise_scale
        if self._whole_layer and elementwise_scale != 1:
            raise InputError(f"{label} times whole layers, so elementwise_scale must be 1, got {elementwise_scale}")
        self._all_reduce: OpInterpolator | None = None
        if tensor_parallel > 1 and not self._whole_layer:
            self._all_reduce = self._ops.get(f"all_reduce_{all_reduce}")
            if self._all_reduce is None:
                raise InputError(f"{label} has no op all_reduce_{all_reduce}; choose another all_reduce")

    def forward_ms(
        self,
        *,
        first_layer: int,
        last_layer: int,
        batch: int,
        tokens: int,
        logits: int,
        context: ArrayLike,
        shortlist: int | None = None,
        in_row: int | None = None,
    ) -> NDArray[np.float64]:
        """Milliseconds of one device forward; the shape is that of `context`.

        `batch` sequences with `tokens` query tokens in all (they may differ in length: attention is asked at
        their mean) go through the layers (first_layer, last_layer], the embedding before them if first_layer
        is 0 and the LM head after them over `logits` rows in all if there are any, for `shortlist` tokens of the
        vocabulary or all of them. `context` is the mean number of tokens, cached and new, that a query token's
        sequence attends to: a scalar or an array. `in_row` tells, of a forward to an exit below the target,
        which one since a deeper level ran, where that is known: the later, the more is in the processor's caches.
        """
        parts = self.parts_ms(
            first_layer=first_layer,
            last_layer=last_layer,
            batch=batch,
            tokens=tokens,
            logits=logits,
            context=context,
            shortlist=shortlist,
            in_row=in_row,
        )
        return np.asarray(sum(parts.values()), dtype=np.float64)

    def parts_ms(
        self,
        *,
        first_layer: int,
        last_layer: int,
        batch: int,
        tokens: int,
        logits: int,
        context: ArrayLike,
        shortlist: int | None = None,
        in_row: int | None = None,
    ) -> dict[str, NDArray[np.float64]]:
        """`forward_ms` split into `PARTS`, each of the shape of `context`; their sum in order is that number."""
        if not 0 <= first_layer <= last_layer <= self._n_layers:
            raise InputError(
                f"network {self.profile.network.name}: layers ({first_layer}, {last_layer}] are not within "
                f"(0, {self._n_layers}]"
            )
        shape = ForwardShape(first_layer, last_layer, batch, tokens, logits)
        contexts = np.asarray(context, dtype=np.float64)
        parts = self._usual_parts_ms(shape, contexts, shortlist)
        saved_ms = self._in_loop.saved_ms(shape, contexts, in_row)
        if saved_ms is not None:
            usual_ms = sum(ms for part, ms in parts.items() if part != "host")
            kept = np.maximum(0.0, 1 - saved_ms / usual_ms)
            parts = {part: ms if part == "host" else ms * kept for part, ms in parts.items()}
        parts["host"] += self._gaps.ms(layers=shape.n_layers, batch=batch, rows=logits / batch, in_row=in_row)
        parts["host"] += self.host.per_forward_ms
        return parts

    def _usual_ms(self, shape: ForwardShape, contexts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of a forward's parts."""
        parts = self._usual_parts_ms(shape, contexts, None)
        return np.asarray(sum(ms for part, ms in parts.items() if part != "host"))

    def _usual_parts_ms(
        self, shape: ForwardShape, contexts: NDArray[np.float64], shortlist: int | None
    ) -> dict[str, NDArray[np.float64]]:
        """The parts by themselves, without the gap behind them."""
        parts = {part: np.zeros(contexts.shape) for part in PARTS}
        if shape.first_layer == 0:
            parts["embedding"] += self._ops["embedding"].at_tokens(shape.tokens)
            if self._all_reduce is not None:
                parts["all_reduce"] += self._all_reduce.at_tokens(shape.tokens)
        if shape.n_layers:
            layer = self._layer_ms(shape, contexts)
            for part, ms in layer.items():
                parts[part] += shape.n_layers * ms
            kernels = np.asarray(sum(layer.values()))
            parts["host"] += shape.n_layers * np.maximum(0.0, self.host.per_layer_ms - kernels)
        if shape.logits:
            parts["lm_head"] += self._lm_head_ms(shape.logits, shortlist)
            if exit_head_op(shape.last_layer) in self._ops:
                parts["exit_head"] += self._on_grid(exit_head_op(shape.last_layer), shape, contexts)
        if "forward" in self._ops:
            parts["forward"] += self._ops["forward"].at(shape.batch, shape.query_tokens, 1.0)
        return parts

    def _lm_head_ms(self, logits: int, shortlist: int | None) -> float:
        """Reading out `logits` rows for the whole vocabulary or a shortlist of it.

        A matrix product takes a time to start and a time in proportion to its columns, so time is linear in the
        shortlist between the sizes that the profile has, the vocabulary being the largest. Below them all it falls
        towards the time to start, which is at most that of looking up the embedding of one token: one kernel too, and
        one that moves fewer bytes than any read-out. A shorter list never takes longer than a longer one.
        """
        if shortlist is None:
            return self._ops["lm_head"].at_tokens(logits)
        sizes = [0, *self._heads]
        if not 1 <= shortlist <= sizes[-1]:
            raise InputError(
                f"{self._label}: a shortlist has 1 to {sizes[-1]} tokens, the size of the vocabulary, not {shortlist}"
            )
        start_ms = float(self._ops["embedding"].table.ms.min())
        ms = np.array([start_ms, *(head.at_tokens(logits) for head in self._heads.values())])
        return float(np.interp(shortlist, sizes, np.minimum.accumulate(ms[::-1])[::-1]))

    def _layer_ms(self, shape: ForwardShape, contexts: NDArray[np.float64]) -> dict[str, NDArray[np.float64] | float]:
        """One layer's kernels by part."""
        if self._whole_layer:
            return {"layer": self._on_grid("layer", shape, contexts)}
        parts: dict[str, NDArray[np.float64] | float] = {
            "linear": self._ops["layer_linear"].at_tokens(shape.tokens),
            "elementwise": self._elementwise_scale * self._ops["layer_elementwise"].at_tokens(shape.tokens),
            "attention": self._on_grid("attention", shape, contexts),
        }
        if self._all_reduce is not None:
            parts["all_reduce"] = 2 * self._all_reduce.at_tokens(shape.tokens)
        return parts

    def _on_grid(self, op: str, shape: ForwardShape, contexts: NDArray[np.float64]) -> NDArray[np.float64]:
        """`op` at the mean query tokens of a sequence, from its prefill table where it ends."""
        prefill = self._ops.get(f"{op}_prefill")
        if prefill is not None and shape.query_tokens > self._ops[op].table.query_tokens[-1]:
            return prefill.at(shape.batch, shape.query_tokens, contexts)
        return self._ops[op].at(shape.batch, shape.query_tokens, contexts)

    @property
    def extrapolated(self) -> tuple[str, ...]:
        """What has been asked outside the profiled range so far; empty unless extrapolation was allowed."""
        return tuple(sorted(set().union(*(op.notes for op in self._ops.values()))))
