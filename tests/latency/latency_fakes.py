"""A small made-up profile, and the shipped ones."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from hispec_sim.latency import LatencyProfile, ProfileRow, Provenance
from hispec_sim.networks import NetworkSpec

ROOT = Path(__file__).parents[2]
ALL_SHIPPED = sorted((ROOT / "profiles").glob("*/*.csv"))
SHIPPED = [path for path in ALL_SHIPPED if path.parent.name in ("h100_sxm", "h200_sxm")]
"""Those of GPUs, in parts, from published tables; the others were measured by `hispec profile run`."""

NETWORK = NetworkSpec(
    name="tiny",
    n_layers=8,
    hidden_size=64,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=256,
)
PROVENANCE = Provenance(
    dtype="float32",
    software={"made": "up"},
    date="2025-01-01",
    command="none",
    method="Made up for tests: 100 % fiction.",
)


def small_rows(tensor_parallel: int = 1, *, whole_layer: bool = False) -> list[ProfileRow]:
    """Rows whose times are products of powers, so that log-log interpolation is exact everywhere."""
    rows = [
        ProfileRow(op, tensor_parallel, 1, tokens, None, scale * tokens**0.5, "measured", 0.9 * scale * tokens**0.5,
                   1.2 * scale * tokens**0.5, 20)
        for op, scale in (("lm_head", 0.5), ("embedding", 0.1))
        for tokens in (1, 4, 64, 256)
    ]  # fmt: skip
    grid = product((1, 4, 16), (1, 4, 16), (1, 64, 1024))
    if whole_layer:
        rows += [ProfileRow("layer", tensor_parallel, *at, power_law_ms(*at), "measured") for at in grid]
        return rows
    rows += [ProfileRow("attention", tensor_parallel, *at, power_law_ms(*at), "derived") for at in grid]
    for op, scale in (("layer_linear", 1.0), ("layer_elementwise", 0.2)):
        rows += [ProfileRow(op, tensor_parallel, 1, m, None, scale * m**0.5, "measured") for m in (1, 4, 64, 256)]
    if tensor_parallel > 1:
        rows += [ProfileRow("all_reduce_custom", tensor_parallel, 1, m, None, 0.01 * m, "measured") for m in (1, 256)]
        rows += [ProfileRow("all_reduce_nccl", tensor_parallel, 1, m, None, 0.1 * m, "measured") for m in (1, 256)]
    return rows


def power_law_ms(batch: float, query_tokens: float, context: float) -> float:
    return float(0.01 * batch**0.9 * query_tokens**0.2 * context**0.5)


def make_profile(rows: list[ProfileRow]) -> LatencyProfile:
    return LatencyProfile(device="toy", network=NETWORK, provenance=PROVENANCE, rows=tuple(rows))


SMALL = make_profile(small_rows(1) + small_rows(2))
WHOLE_LAYER = make_profile(small_rows(whole_layer=True))
