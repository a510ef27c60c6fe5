"""Latency profiles from the CSV files of Vidur (github.com/microsoft/vidur, data/profiling): mlp.csv, attention.csv and
all_reduce.csv, medians in milliseconds on one GPU of a tensor-parallel group.

At first all three lay in data/profiling/DEVICE, and all_reduce.csv told a message's tokens and their width. Later ones
lie in data/profiling/compute/DEVICE/MODEL and data/profiling/network/NODE, and all_reduce.csv tells a message's bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from hispec_sim.errors import InputError
from hispec_sim.latency.grids import CONTEXTS, GEMM_TOKENS, MESSAGE_TOKENS, SMOOTH_TOKENS, VERIFY_TOKENS
from hispec_sim.latency.profile import LatencyProfile, Provenance
from hispec_sim.latency.profile_row import ProfileRow
from hispec_sim.networks import NetworkSpec

LINEAR = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
ELEMENTWISE = ("input_layernorm", "post_attention_layernorm", "attn_rope", "mlp_act", "add")
AROUND_ATTENTION = ("attn_input_reshape", "attn_output_reshape", "attn_kv_cache_save")
OPTIONAL = ("post_attention_layernorm", "add", *AROUND_ATTENTION)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
METHOD = (
    "Medians published with Vidur. layer_linear: attn_pre_proj, attn_post_proj, mlp_up_proj, mlp_down_proj; "
    "layer_elementwise: both norms, rope, activation, addition; attention: attn_decode with what stands around "
    "it. Sizes are those of this grid, derived where interpolated. Derived too: attention of several query "
    "tokens, taken to be that of one (reading the KV cache decides); contexts below the shortest; lm_head, which "
    "Vidur does not time, at the speed of layer_linear per weight."
)


def import_vidur(
    network: NetworkSpec,
    device: str,
    folder: Path,
    *,
    all_reduce: Path | None = None,
    dtype: str = "float16",
    date: str,
    command: str,
) -> LatencyProfile:
    """The profile of `network` at every tensor parallelism that all files have. `all_reduce` is that file where it does
    not lie in `folder`. Raises InputError that names the file and what it lacks."""
    mlp = _mine(_read(folder / "mlp.csv"), folder / "mlp.csv", network, "n_head")
    attention = _mine(_read(folder / "attention.csv"), folder / "attention.csv", network, "n_q_head")
    message_path = all_reduce or folder / "all_reduce.csv"
    messages = _read(message_path) if message_path.is_file() or all_reduce else None
    key = "num_tensor_parallel_workers"
    degrees = sorted({int(tp) for tp in set(mlp[key]) & set(attention[key])})
    rows: list[ProfileRow] = []
    for degree in degrees:
        exchanged = _all_reduce(messages, message_path, network, degree) if messages is not None and degree > 1 else []
        if degree == 1 or exchanged:
            rows += exchanged + _tokens(mlp[mlp[key] == degree], folder / "mlp.csv", network, degree)
            rows += _attention(attention[attention[key] == degree], folder / "attention.csv", degree)
    if not rows:
        raise InputError(
            f"{folder} has no tensor parallelism of {network.name} in all files: mlp.csv and attention.csv share "
            f"{', '.join(map(str, degrees)) or 'none'}; above 1 all_reduce.csv is needed too (--all-reduce FILE)"
        )
    provenance = Provenance(dtype, {"vidur": "data/profiling"}, date, command, METHOD)
    return LatencyProfile(device, network, provenance, tuple(rows))


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, index_col=False)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; give the folder that holds Vidur's mlp.csv and attention.csv"
        ) from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path} is no CSV of Vidur: {str(error).strip()}") from None


def _mine(frame: pd.DataFrame, path: Path, network: NetworkSpec, heads: str) -> pd.DataFrame:
    """The rows of a network, its tensor parallelisms as numbers."""
    wanted = {heads: network.n_heads, "n_kv_head": network.n_kv_heads, "n_embd": network.hidden_size}
    if heads == "n_head":
        wanted["n_expanded_embd"] = network.intermediate_size
    key = "num_tensor_parallel_workers"
    _demand(frame, path, [*wanted, key])
    mine = _where(frame, path, wanted)
    if mine.empty:
        shape = ", ".join(f"{column} {value}" for column, value in wanted.items())
        raise InputError(f"{path} has no row of {network.name} ({shape})")
    return mine.assign(**{key: _numbers(mine, path, key)})


def _where(frame: pd.DataFrame, path: Path, wanted: Mapping[str, float]) -> pd.DataFrame:
    """The rows with these values; an empty cell is no value."""
    for column, value in wanted.items():
        frame = frame[_numbers(frame, path, column, empty=math.nan) == value]
    return frame


def _numbers(frame: pd.DataFrame, path: Path, column: str, *, empty: float | None = None) -> pd.Series[float]:
    """The cells of a column as numbers, with `empty` for empty ones. Raises InputError at a cell that is none, or empty
    where that stands for nothing."""
    cells = frame[column]
    numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    wrong = ~np.isfinite(numbers) & (cells.notna() | (empty is None))
    if wrong.any():
        row = int(cells.index[wrong][0])
        found = "is empty" if pd.isna(cells[row]) else f"has '{cells[row]}'"
        raise InputError(f"{path}: column {column} {found} in row {row + 1} below the header, where a number belongs")
    return numbers if empty is None else numbers.fillna(empty)


def _demand(frame: pd.DataFrame, path: Path, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(f"{path}: column missing: {', '.join(missing)}; give the file as Vidur has it")


def _sum_ms(frame: pd.DataFrame, path: Path, parts: Sequence[str]) -> pd.Series[float]:
    """The medians of all parts of each row added up; what Vidur times for some networks only counts where it is."""
    columns = {part: f"time_stats.{part}.median" for part in parts}
    _demand(frame, path, [column for part, column in columns.items() if part not in OPTIONAL])
    total = pd.Series(0.0, index=frame.index)
    for part, column in columns.items():
        if column in frame.columns:
            total += _numbers(frame, path, column, empty=0.0 if part in OPTIONAL else None)
    return total


def _tokens(frame: pd.DataFrame, path: Path, network: NetworkSpec, degree: int) -> list[ProfileRow]:
    """Ops that depend on the token count alone."""
    _demand(frame, path, ["num_tokens"])
    rows = []
    for op, parts, grid in (
        ("layer_linear", LINEAR, GEMM_TOKENS),
        ("layer_elementwise", ELEMENTWISE, SMOOTH_TOKENS),
        ("embedding", ("emb",), SMOOTH_TOKENS),
    ):
        by_tokens = _sum_ms(frame, path, parts).groupby(_numbers(frame, path, "num_tokens")).median()
        rows += _on_grid(op, degree, by_tokens, grid)
    share = network.head_parameters / network.layer_parameters
    rows += [
        ProfileRow("lm_head", degree, 1, row.query_tokens, None, share * row.ms, "derived")
        for row in rows
        if row.op == "layer_linear"
    ]
    return rows


def _on_grid(op: str, degree: int, by_tokens: pd.Series[float], grid: Sequence[int]) -> list[ProfileRow]:
    """A token op at the sizes of a grid that lie in the measured range, and at both of its ends."""
    by_tokens = by_tokens[by_tokens > 0]
    if by_tokens.empty:
        raise InputError(f"Vidur's files have no time above 0 for {op} at tensor parallelism {degree}")
    known = by_tokens.index.to_numpy(dtype=np.float64)
    sizes = {tokens for tokens in grid if known[0] <= tokens <= known[-1]} | {1, int(known[-1])}
    return [
        ProfileRow(
            op,
            degree,
            1,
            tokens,
            None,
            float(np.interp(tokens, known, by_tokens.to_numpy())),
            "measured" if tokens in known else "derived",
        )
        for tokens in sorted(sizes)
    ]


def _attention(frame: pd.DataFrame, path: Path, degree: int) -> list[ProfileRow]:
    """Decoding at the largest full grid of batches and contexts that there is."""
    _demand(frame, path, ["batch_size", "kv_cache_size", "prefill_chunk_size"])
    decode = frame[_numbers(frame, path, "prefill_chunk_size") == 0]
    ms = _sum_ms(decode, path, ("attn_decode", *AROUND_ATTENTION))
    by_point = ms.groupby([_numbers(decode, path, column) for column in ("batch_size", "kv_cache_size")]).median()
    points = by_point.index.to_frame().to_numpy(dtype=np.int64).tolist()
    at = {(batch, cached): float(ms) for (batch, cached), ms in zip(points, by_point, strict=True) if ms > 0}
    if not at:
        raise InputError(f"{path} has no decode attention at tensor parallelism {degree}")
    batches = [batch for batch in sorted({batch for batch, _ in at}) if batch in BATCHES]
    best: tuple[list[int], list[int]] = ([], [])
    for count in range(1, len(batches) + 1):
        few = batches[:count]
        common = _thinned(sorted(set.intersection(*({c for b, c in at if b == batch} for batch in few))))
        if len(few) * len(common) > len(best[0]) * len(best[1]):
            best = (few, common)
    if not best[0]:
        raise InputError(f"{path}: no batch of {', '.join(map(str, BATCHES))} at tensor parallelism {degree}")
    rows = []
    for batch, tokens in product(best[0], VERIFY_TOKENS):
        for cached in best[1]:
            origin = "measured" if tokens == 1 else "derived"
            rows.append(ProfileRow("attention", degree, batch, tokens, cached + 1, at[batch, cached], origin))  # type: ignore[arg-type]
        if best[1][0] > 0:
            rows.append(ProfileRow("attention", degree, batch, tokens, 1, at[batch, best[1][0]], "derived"))
    return rows


def _thinned(cached: Sequence[int]) -> list[int]:
    """The sizes nearest to those of the grid, and both ends."""
    if not cached:
        return []
    near = {min(cached, key=lambda size: abs(size - wanted)) for wanted in CONTEXTS}
    return sorted(near | {cached[0], cached[-1]})


def _all_reduce(frame: pd.DataFrame, path: Path, network: NetworkSpec, degree: int) -> list[ProfileRow]:
    """All-reduces of hidden states in 16 bits among the GPUs of one node."""
    column = "time_stats.all_reduce.median"
    _demand(frame, path, ["num_workers", column])
    if {"n_embd", "num_tokens"} <= set(frame.columns):  # the first layout; nodes are not told apart there
        wanted, size, per_token = {"n_embd": network.hidden_size}, "num_tokens", 1
    else:
        _demand(frame, path, ["size", "collective", "devices_per_node"])
        frame = frame[frame["collective"] == "all_reduce"]
        wanted, size, per_token = {"devices_per_node": degree}, "size", 2 * network.hidden_size
    mine = _where(frame, path, {"num_workers": degree, **wanted})
    tokens = _numbers(mine, path, size) / per_token
    by_tokens = _numbers(mine, path, column)[tokens > 0].groupby(tokens[tokens > 0]).median()
    return [] if by_tokens.empty else _on_grid("all_reduce_nccl", degree, by_tokens, MESSAGE_TOKENS)
