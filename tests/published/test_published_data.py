"""The published numbers that ship: each file says where it is from, and holds what the paper prints."""

from __future__ import annotations

from importlib.resources import files

import pytest

from hispec_sim.published.data import published_table, published_value

NAMES = sorted(
    entry.name.removesuffix(".csv")
    for entry in files("hispec_sim").joinpath("data/published").iterdir()
    if entry.name.endswith(".csv")
)


def test_there_is_data() -> None:
    assert len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
def test_every_file_names_its_source_and_how_it_was_read(name: str) -> None:
    table = published_table(name)
    assert "arXiv" in table.source
    assert any(note.startswith("quantity: ") for note in table.notes)
    assert any(note.startswith("read: ") for note in table.notes)
    assert table.rows
    assert all(None not in row and None not in row.values() and all(row.values()) for row in table.rows)


@pytest.mark.parametrize(
    ("name", "where", "column", "value"),
    [
        ("hispec_table1", {"network": "llama-2-70b", "method": "HiSpec"}, "cnn_dm", 1.93),
        ("hispec_table1", {"network": "llama-3-8b", "method": "LayerSkip"}, "gsm8k", 1.77),
        ("hispec_table2", {"target": "llama-3.1-70b", "draft": "llama-3.2-3b"}, "t_generate_ms", 10.58),
        ("hispec_table2", {"target": "opt-66b", "draft": "opt-6.7b"}, "ratio", 2.0),
        ("hispec_fig4", {"network": "llama-2-70b", "dataset": "sharegpt"}, "acceptance", 0.424),
        ("hispec_fig4", {"network": "llama-3-8b", "dataset": "cnn_dm"}, "acceptance", 0.689),
        ("hispec_fig5b", {"draft_exit": "60"}, "speedup", 1.07),
        ("hispec_fig6", {"exit_layer": "7"}, "throughput", 48.1),
        ("hispec_fig6", {"exit_layer": "31"}, "acceptance", 0.918),
        ("layerskip_table1", {"network": "llama-2-7b", "task": "xsum"}, "speedup", 1.54),
    ],
)
def test_spot_values(name: str, where: dict[str, str], column: str, value: float) -> None:
    rows = [row for row in published_table(name).rows if where.items() <= row.items()]
    assert [float(row[column]) for row in rows] == [value]


def test_prose_numbers() -> None:
    assert published_value("hispec_text", "llama-2-70b_sharegpt_exit10_20_acceptance") == 0.581
    assert published_value("pipespec_finding", "highest") == 1.04


def test_tables_agree_with_themselves() -> None:
    for row in published_table("hispec_table2").rows:
        assert float(row["t_verify_ms"]) / float(row["t_generate_ms"]) == pytest.approx(float(row["ratio"]), abs=0.06)


def test_layerskips_speedup_is_below_the_ratio_of_its_own_rates() -> None:
    for row in published_table("layerskip_table1").rows:
        ratio = float(row["self_speculative_tok_s"]) / float(row["autoregressive_tok_s"])
        assert 1.03 < ratio / float(row["speedup"]) < 1.10
