"""Vidur's files, made up with its columns, as a latency profile."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pytest

from hispec_sim.errors import InputError
from hispec_sim.latency import NetworkCost, read_profile
from hispec_sim.latency.import_vidur import import_vidur
from hispec_sim.networks import NetworkSpec

NETWORK = NetworkSpec("v", 8, 64, 4, 2, 16, 128, 256)
SHAPE = {"n_kv_head": 2, "n_embd": 64}
PARTS = {
    "emb": 0.5, "input_layernorm": 1.0, "attn_pre_proj": 2.0, "attn_rope": 4.0, "attn_post_proj": 8.0,
    "mlp_up_proj": 16.0, "mlp_act": 32.0, "mlp_down_proj": 64.0, "add": 128.0, "post_attention_layernorm": 256.0,
}  # fmt: skip


def write(path: Path, rows: Iterable[dict[str, object]]) -> None:
    rows = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Times linear in tokens, other networks between, one batch whose contexts are cut short."""
    write(
        tmp_path / "mlp.csv",
        [
            {f"time_stats.{part}.median": ms * tokens / degree for part, ms in PARTS.items()}
            | {"n_head": heads, "n_expanded_embd": 128, "num_tokens": tokens, "num_tensor_parallel_workers": degree}
            | SHAPE
            for heads in (4, 8)
            for degree in (1, 2)
            for tokens in (1, 2, 3, 100, 2048)
        ],
    )
    write(
        tmp_path / "attention.csv",
        [
            {
                "time_stats.attn_decode.median": batch * (cached + 1) / degree,
                "time_stats.attn_kv_cache_save.median": 0.25,
                "n_q_head": 4, "batch_size": batch, "kv_cache_size": cached, "prefill_chunk_size": 0,
                "num_tensor_parallel_workers": degree,
            } | SHAPE
            for degree in (1, 2, 4)
            for batch in (1, 2, 3, 64)
            for cached in (31, 255, 1023)
            if batch * cached < 2048
        ],
    )  # fmt: skip
    write(
        tmp_path / "all_reduce.csv",
        [
            {"time_stats.all_reduce.median": size / 1024 + rank, "rank": rank, "num_workers": 2, "size": size,
             "collective": "all_reduce", "devices_per_node": devices}
            for size in (1024, 131072)
            for rank in (0, 1, 2)
            for devices in (2, 8)
        ],
    )  # fmt: skip
    return tmp_path


def profile(folder: Path, **changed: object):
    return import_vidur(NETWORK, "a100", folder, date="2026-01-01", command="none", **changed)


def test_parts_are_added_up_and_found_again(folder):
    made = profile(folder)
    assert made.tensor_parallels == (1, 2)
    rows = {row.point: row for row in made.rows}
    assert rows["layer_linear", 2, 1, 1, 0].ms == pytest.approx((2 + 8 + 16 + 64) / 2)
    assert rows["layer_linear", 1, 1, 2, 0].origin == "measured"
    assert rows["layer_linear", 1, 1, 4, 0].origin == "derived"
    assert rows["layer_linear", 1, 1, 4, 0].ms == pytest.approx(4 * (2 + 8 + 16 + 64))
    assert rows["layer_elementwise", 1, 1, 1, 0].ms == pytest.approx(1 + 4 + 32 + 128 + 256)
    assert rows["embedding", 1, 1, 2048, 0].ms == pytest.approx(0.5 * 2048)
    attention = rows["attention", 2, 2, 1, 256]
    assert (attention.ms, attention.origin) == (pytest.approx(2 * 256 / 2 + 0.25), "measured")
    assert rows["attention", 2, 2, 16, 256].origin == "derived"
    assert ("attention", 1, 64, 1, 32) not in rows  # it would leave a single context for all batches
    assert ("attention", 1, 3, 1, 32) not in rows
    reduced = rows["all_reduce_nccl", 2, 1, 8, 0]  # 8 tokens x 64 x 2 bytes; the middle rank
    assert (reduced.ms, reduced.origin) == (pytest.approx(1024 / 1024 + 1), "measured")
    head = NETWORK.head_parameters / NETWORK.layer_parameters
    assert rows["lm_head", 1, 1, 2, 0].ms == pytest.approx(head * rows["layer_linear", 1, 1, 2, 0].ms)
    cost = NetworkCost(made, tensor_parallel=2, all_reduce="nccl")
    assert float(cost.forward_ms(first_layer=0, last_layer=8, batch=2, tokens=4, logits=2, context=300)) > 0


def test_without_all_reduce_there_is_one_gpu_only(folder):
    (folder / "all_reduce.csv").rename(folder / "elsewhere.csv")
    assert profile(folder).tensor_parallels == (1,)
    assert profile(folder, all_reduce=folder / "elsewhere.csv").tensor_parallels == (1, 2)


def test_the_first_layout_of_all_reduces_is_read_too(folder):
    """Tokens and their width in place of bytes; messages of no token and of other widths are not ours."""
    write(
        folder / "all_reduce.csv",
        [
            {"time_stats.all_reduce.median": 0.5 + tokens * width / 64 + rank, "rank": rank, "num_workers": workers,
             "n_embd": width, "num_tokens": tokens}
            for rank in (0, 1, 2)
            for workers in (2, 4)
            for width in (64, 128)
            for tokens in (0, 8, 1024)
        ],
    )  # fmt: skip
    made = profile(folder)
    rows = {row.point: row for row in made.rows}
    assert made.tensor_parallels == (1, 2)
    reduced = rows["all_reduce_nccl", 2, 1, 8, 0]
    assert (reduced.ms, reduced.origin) == (pytest.approx(0.5 + 8 + 1), "measured")
    assert rows["all_reduce_nccl", 2, 1, 1, 0].ms == pytest.approx(reduced.ms), "not towards a message of no token"


def set_cell(path: Path, column: str, row: int, cell: str) -> None:
    """Change one cell; rows count from 1 below the header."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row - 1][column] = cell
    write(path, rows)


@pytest.mark.parametrize(
    ("file", "column", "cell", "message"),
    [
        ("mlp.csv", "time_stats.mlp_up_proj.median", "", "is empty in row 3 below the header"),
        ("mlp.csv", "time_stats.mlp_up_proj.median", "fast", "has 'fast' in row 3 below the header"),
        ("mlp.csv", "time_stats.add.median", "fast", "has 'fast' in row 3 below the header"),
        ("mlp.csv", "time_stats.emb.median", "inf", "has 'inf' in row 3 below the header"),
        ("mlp.csv", "n_embd", "wide", "has 'wide' in row 3 below the header"),
        ("mlp.csv", "num_tokens", "", "is empty in row 3 below the header"),
        ("mlp.csv", "num_tensor_parallel_workers", "", "is empty in row 3 below the header"),
        ("attention.csv", "time_stats.attn_decode.median", "", "is empty in row 3 below the header"),
        ("attention.csv", "kv_cache_size", "long", "has 'long' in row 3 below the header"),
        ("all_reduce.csv", "time_stats.all_reduce.median", "", "is empty in row 3 below the header"),
        ("all_reduce.csv", "size", "big", "has 'big' in row 3 below the header"),
    ],
)
def test_cells_that_are_no_numbers_are_named(folder, file, column, cell, message):
    set_cell(folder / file, column, 3, cell)
    with pytest.raises(InputError) as failed:
        profile(folder)
    assert f"{file}: column {column} {message}" in str(failed.value)


def test_empty_cells_of_what_some_networks_lack_count_nothing(folder):
    set_cell(folder / "mlp.csv", "time_stats.add.median", 1, "")
    set_cell(folder / "mlp.csv", "n_embd", len((folder / "mlp.csv").read_text().splitlines()) - 1, "")  # another's
    rows = {row.point: row for row in profile(folder).rows}
    assert rows["layer_elementwise", 1, 1, 1, 0].ms == pytest.approx(1 + 4 + 32 + 256)


def test_the_command_writes_it(folder, tmp_path):
    from typer.testing import CliRunner

    from hispec_sim.cli.profile import profile_app

    arguments = ["import", "vidur", str(folder), "--network", "llama-2-70b", "--device", "a100", "--out"]
    failed = CliRunner().invoke(profile_app, [*arguments, str(tmp_path / "out.csv")])
    assert isinstance(failed.exception, InputError)
    assert "mlp.csv has no row of llama-2-70b (n_head 64, n_kv_head 8, n_embd 8192" in str(failed.exception)
    text = (folder / "mlp.csv").read_text().replace(",4,128,", ",64,28672,").replace(",2,64\n", ",8,8192\n")
    (folder / "mlp.csv").write_text(text)
    lines = (folder / "attention.csv").read_text().splitlines()
    header = lines[0].split(",")
    made = [dict(zip(header, line.split(","), strict=True)) for line in lines[1:]]
    write(folder / "attention.csv", [row | {"n_q_head": 64, "n_kv_head": 8, "n_embd": 8192} for row in made])
    done = CliRunner().invoke(profile_app, [*arguments, str(tmp_path / "out.csv")])
    assert done.exception is None, done.output
    written = read_profile(tmp_path / "out.csv")
    assert written.network.name == "llama-2-70b"
    assert "--network llama-2-70b" in written.provenance.command


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "mlp.csv").unlink(), r"mlp\.csv: no such file"),
        (lambda folder: (folder / "attention.csv").write_text(""), r"attention\.csv is no CSV of Vidur"),
        (lambda folder: (folder / "mlp.csv").write_text("a,b\n1,2\n"), r"mlp\.csv: column missing: n_head"),
        (
            lambda folder: (folder / "mlp.csv").write_text(
                (folder / "mlp.csv").read_text().replace("attn_rope", "rope")
            ),
            r"mlp\.csv: column missing: time_stats\.attn_rope\.median",
        ),
        (
            lambda folder: (folder / "all_reduce.csv").write_text(
                "num_workers,n_embd,time_stats.all_reduce.median\n2,64,1\n"
            ),
            r"all_reduce\.csv: column missing: size, collective, devices_per_node",
        ),
    ],
)
def test_damaged_folders_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message):
        profile(folder)
