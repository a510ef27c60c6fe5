"""Slices of a latency profile for looking at: points, the interpolation between them and the bare roofline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hispec_sim.latency.devices import known_devices
from hispec_sim.latency.interpolation import OpInterpolator
from hispec_sim.latency.ops import OPS, is_step_op
from hispec_sim.latency.profile import LatencyProfile, OpTable
from hispec_sim.latency.roofline import roofline_profile, whole_forwards

_PER_OP = 4  # curves that can still be told apart
_LINE_POINTS = 200


@dataclass(frozen=True, slots=True)
class Slice:
    """One op, or whole forwards, along `axis`, the other axes held. `x`, `ms`, `measured`: points of the profile, (n,);
    `line_*`, `roofline_ms`: (m,)."""

    op: str
    label: str
    axis: str
    held: str
    x: NDArray[np.float64]
    ms: NDArray[np.float64]
    measured: NDArray[np.bool_]
    line_x: NDArray[np.float64]
    line_ms: NDArray[np.float64]
    roofline_ms: NDArray[np.float64] | None


def profile_slices(profile: LatencyProfile) -> tuple[Slice, ...]:
    """Token ops over tokens, a curve for each tensor parallelism; the others over context, one for some batches; ops of
    the decode loop, and whole layers once more, over query tokens; whole forwards over layers."""
    device = known_devices().get(profile.device)
    bare = None
    if device is not None and profile.provenance.dtype == "bfloat16":
        bare = roofline_profile(profile.network, device.ideal(), profile.tensor_parallels)
    slices: list[Slice] = []
    of_shortlists = sorted({table.op for table in profile.tables} - set(OPS))
    for op in (*OPS, *of_shortlists):
        tables = [table for table in profile.tables if table.op == op]
        if tables and tables[0].is_token_op:
            slices += [_over_tokens(table, bare) for table in tables[:_PER_OP]]
        elif tables:
            few = np.unique(np.linspace(0, len(tables[0].batch) - 1, _PER_OP).round().astype(int))
            if not is_step_op(op):
                slices += [_over_context(tables[0], int(place), bare) for place in few]
            if is_step_op(op) or op == "layer":
                slices += [_over_query_tokens(tables[0], int(place)) for place in few]
    slices += [_over_layers(profile, degree, bare) for degree in profile.tensor_parallels[:_PER_OP]]
    return tuple(slices)


def _over_tokens(table: OpTable, bare: LatencyProfile | None) -> Slice:
    line_x = _between(table.query_tokens)
    asked = OpInterpolator(table, "figure")
    roofline = _roofline(table, bare)
    return Slice(
        op=table.op,
        label=f"tensor parallel {table.tensor_parallel}",
        axis="tokens",
        held="",
        x=table.query_tokens,
        ms=table.ms[0, :, 0],
        measured=table.measured[0, :, 0],
        line_x=line_x,
        line_ms=np.array([asked.at_tokens(x) for x in line_x]),
        roofline_ms=None if roofline is None else np.array([roofline.at_tokens(x) for x in line_x]),
    )


def _over_context(table: OpTable, place: int, bare: LatencyProfile | None) -> Slice:
    # Decode is one query token; of a prefill the middle of the range shows more than its short end.
    span = len(table.query_tokens) // 2 if table.op.endswith("_prefill") else 0
    batch, query_tokens = float(table.batch[place]), float(table.query_tokens[span])
    line_x = _between(table.context)
    roofline = _roofline(table, bare)
    return Slice(
        op=table.op,
        label=f"batch {batch:.0f}",
        axis="context",
        held=f"tensor parallel {table.tensor_parallel}, query tokens {query_tokens:.0f}",
        x=table.context,
        ms=table.ms[place, span],
        measured=table.measured[place, span],
        line_x=line_x,
        line_ms=OpInterpolator(table, "figure").at(batch, query_tokens, line_x),
        roofline_ms=None if roofline is None else roofline.at(batch, query_tokens, line_x),
    )


def _over_query_tokens(table: OpTable, place: int) -> Slice:
    batch, middle = float(table.batch[place]), len(table.context) // 2
    context, line_x = float(table.context[middle]), _between(table.query_tokens)
    asked = OpInterpolator(table, "figure")
    return Slice(
        op=table.op if is_step_op(table.op) else f"{table.op} over query tokens",
        label=f"batch {batch:.0f}",
        axis="query tokens",
        held="" if is_step_op(table.op) else f"context {context:.0f}",
        x=table.query_tokens,
        ms=table.ms[place, :, middle],
        measured=table.measured[place, :, middle],
        line_x=line_x,
        line_ms=np.array([float(asked.at(batch, x, context)) for x in line_x]),
        roofline_ms=None,
    )


def _over_layers(profile: LatencyProfile, tensor_parallel: int, bare: LatencyProfile | None) -> Slice:
    """What a draft by each exit costs. No row of a profile is a whole forward, so there are no points."""
    table = profile.table("layer", tensor_parallel) or profile.table("attention", tensor_parallel)
    assert table is not None, "a profile has layers, whole or in parts"
    context = float(table.context[len(table.context) // 2])
    layers, none = range(1, profile.network.n_layers + 1), np.empty(0)
    line_ms, roofline_ms = (
        None if source is None else _forwards_ms(source, tensor_parallel, layers, context) for source in (profile, bare)
    )
    assert line_ms is not None
    return Slice(
        op="whole forward over layers",
        label=f"tensor parallel {tensor_parallel}",
        axis="layers",
        held=f"one token, context {context:.0f}",
        x=none,
        ms=none,
        measured=none.astype(np.bool_),
        line_x=np.array(layers, dtype=np.float64),
        line_ms=line_ms,
        roofline_ms=roofline_ms,
    )


def _forwards_ms(
    profile: LatencyProfile, tensor_parallel: int, layers: Iterable[int], context: float
) -> NDArray[np.float64]:
    """Forwards of one token through the first so many layers, read out behind the last of them."""
    cost = whole_forwards(profile, tensor_parallel)
    forwards = [
        cost.forward_ms(first_layer=0, last_layer=last, batch=1, tokens=1, logits=1, context=context) for last in layers
    ]
    return np.array(forwards)


def _between(axis: NDArray[np.float64]) -> NDArray[np.float64]:
    # The points themselves too, so that the line shows both sides of a kernel switch.
    return np.union1d(np.geomspace(axis[0], axis[-1], _LINE_POINTS), axis)


def _roofline(table: OpTable, bare: LatencyProfile | None) -> OpInterpolator | None:
    """None where there is no roofline of that op, such as for a whole layer."""
    found = bare.table(table.op, table.tensor_parallel) if bare is not None else None
    return None if found is None else OpInterpolator(found, "roofline", allow_extrapolation=True)
