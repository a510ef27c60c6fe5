"""`hispec recommend` and `hispec report` on a small real sweep."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from hispec_sim.cli.main import app
from hispec_sim.errors import InputError
from hispec_sim.sweep.conditions import conditions_of
from hispec_sim.sweep.results import read_results


def error_of(*arguments: str) -> str:
    """The message of the InputError that a command ends with."""
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


def test_what_it_prints_and_writes(recommended: tuple[Path, str]) -> None:
    folder, printed = recommended
    answer = json.loads((folder / "recommendation.json").read_text())
    assert " ".join(printed.split()).startswith(answer["sentence"])
    assert [choice["role"] for choice in answer["choices"]] == [
        "autoregressive", "single_layer", "hierarchy", "paper_default",
    ]  # fmt: skip
    assert answer["choices"][3]["levels"][0]["exit_layer"] == 3
    assert [choice["n_points"] for choice in answer["choices"]] == [1, 4, 16, 1]
    table = read_results(folder).table
    for choice in answer["choices"]:
        found = table[table["point"] == choice["point"]].iloc[0]
        assert choice["tokens_per_s"]["median"] == pytest.approx(found["tokens_per_s"], rel=0.2)
    assert {"exit_3", "exit_8", "times of verifications"} <= {effect["name"] for effect in answer["inputs"]}
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"heatmap_draft_exit_ni.svg", "pareto.png", "speedup.png", "tornado.svg"} <= names


def test_again_is_the_same(recommended: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = recommended
    copied = shutil.copytree(folder, tmp_path / "copy")
    before = json.loads((copied / "recommendation.json").read_text())
    arguments = ["recommend", str(copied), "--where", "workload.concurrency == 1", "--repetitions", "3", "--no-vary"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    after = json.loads((copied / "recommendation.json").read_text())
    assert after["choices"] == before["choices"]
    assert after["inputs"] == []


def test_conditions_and_limits(swept: Path) -> None:
    conditions = conditions_of(read_results(swept).sweep)
    assert conditions.load == ("workload.concurrency", "concurrency")
    assert "draft_exit" not in conditions.fixed
    assert "2 values of workload.concurrency (1, 4)" in error_of("recommend", str(swept))
    assert "no point keeps to --max-tpot-ms 0.5" in error_of("recommend", str(swept), "--max-tpot-ms", "0.5")
    assert "no column 'depth'" in error_of("recommend", str(swept), "--heatmap", "depth,draft_exit")


def test_latency_limit_chooses_the_load(swept: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(swept, tmp_path / "copy")
    tpot_ms = read_results(swept).table["tpot_ms"].max()
    arguments = ["recommend", str(copied), "--max-tpot-ms", str(tpot_ms), "--repetitions", "2", "--no-vary"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    answer = json.loads((copied / "recommendation.json").read_text())
    assert {choice["concurrency"] for choice in answer["choices"][:3]} == {4}


def test_report_of_a_sweep(recommended: tuple[Path, str], tmp_path: Path) -> None:
    """The sentence comes first, every point is there, ids differ, and nothing points outside the file."""
    folder, _ = recommended
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    html = out.read_text()
    answer = json.loads((folder / "recommendation.json").read_text())
    assert html.index(answer["sentence"].split(",")[0]) < html.index("<h2>")
    assert html.count("<tr") > 21 + 4 + len(answer["inputs"])
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for used in re.findall(r'(?:href="#|url\(#)([^")]+)', html):
        assert used in ids
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)
    assert html.count("data-tip=") > 50


def test_report_needs_an_answer(swept: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(swept, tmp_path / "copy", ignore=shutil.ignore_patterns("recommendation.json"))
    assert "run `hispec recommend" in error_of("report", str(copied))
    assert "there is no folder" in error_of("report", str(tmp_path / "none"))
    (tmp_path / "summary.json").write_text("{}")
    assert "no run's results" in error_of("report", str(tmp_path))


def test_pareto_front_by_hand() -> None:
    from hispec_sim.report.sweep_figures import pareto_front

    points = pd.DataFrame({"tokens_per_s": [1, 3, 2, 5, 5], "tpot_ms": [1, 2, 3, 4, 5], "point": list("abcde")})
    assert pareto_front(points)["point"].tolist() == ["a", "b", "d"]
