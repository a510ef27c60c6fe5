"""`hispec check paper` prints, writes, and refuses to overwrite."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from hispec_sim.cli.check import check_app
from hispec_sim.errors import InputError

PROFILES = Path(__file__).parents[2] / "profiles" / "h100_sxm"


def paper(*arguments: str):  # type: ignore[no-untyped-def]
    quick = ("--profiles", str(PROFILES), "--tokens", "200", "--only", "leviathan", "--only", "fig5b")
    return CliRunner().invoke(check_app, ["paper", *quick, *arguments], catch_exceptions=False, env={"COLUMNS": "120"})


def test_it_prints_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "checks"
    result = paper("--out", str(out))
    assert result.exit_code == 0
    for word in ("published", "ours", "tolerance", "rests on", "stated beforehand", "Figure 5b", "hit"):
        assert word in result.output
    assert {path.name for path in out.iterdir()} == {
        "paper_checks.json",
        "paper_checks.csv",
        "paper_checks.html",
        "paper_scatter.png",
        "paper_exit_order.png",
    }
    written = json.loads((out / "paper_checks.json").read_text())
    assert [group["group"] for group in written["groups"]] == ["fig5b", "leviathan"]
    assert [row["role"] for row in written["overall"]] == ["stated", "best"]
    page = (out / "paper_checks.html").read_text()
    for word in ("Kendall tau", "What the papers leave open", "on_mismatch", "<svg", "within tolerance"):
        assert word in page
    table = pd.read_csv(out / "paper_checks.csv", keep_default_na=False)
    assert set(table["group"]) == {"fig5b", "leviathan"}
    assert (table["source"].str.contains("arXiv")).all()

    with pytest.raises(InputError, match="--force"):
        paper("--out", str(out))
    assert paper("--out", str(out), "--force").exit_code == 0


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no published check"):
        paper("--only", "table9", "--out", str(tmp_path / "out"))
    with pytest.raises(InputError, match="--profiles"):
        paper("--profiles", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"llama-2-7b\.csv"):
        paper("--profiles", str(tmp_path / "empty"), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_group_without_relative_errors(tmp_path: Path) -> None:
    """PipeSpec has a band and no number to be in error of."""
    arguments = [
        "paper",
        "--profiles",
        str(PROFILES),
        "--tokens",
        "100",
        "--only",
        "pipespec",
        "--out",
        str(tmp_path / "o"),
    ]
    assert CliRunner().invoke(check_app, arguments, catch_exceptions=False).exit_code == 0
    assert json.loads((tmp_path / "o" / "paper_checks.json").read_text())["quantities"] == []
