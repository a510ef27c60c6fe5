"""`hispec recommend` and `hispec report` on a small real sweep."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from hand_made import command
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
    assert "page.html exists already" in error_of("report", str(folder), "--out", str(out))
    again = CliRunner().invoke(app, ["report", str(folder), "--out", str(out), "--force"], catch_exceptions=False)
    assert again.exit_code == 0
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


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full: a longer file cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("size", "what"), [(2_000, "recommendation.json"), (12_000, "figures/")])
def test_a_full_disk_leaves_the_answer_that_was_there(
    recommended: tuple[Path, str], tmp_path: Path, size: int, what: str
) -> None:
    copied = shutil.copytree(recommended[0], tmp_path / "copy")
    before = {path: path.stat().st_size for path in copied.rglob("*")}
    arguments = ("recommend", str(copied), "--where", "workload.concurrency == 1", "--repetitions", "3", "--no-vary")
    with files_of_at_most(size):
        told = error_of(*arguments)
    assert f"{copied}/{what}" in told
    assert "cannot be written: File too large; what was there is as it was" in told
    assert set(copied.rglob("*")) == set(before)
    figures = [path for path in before if path.suffix in (".png", ".svg")]
    assert all(path.stat().st_size == before[path] for path in figures if before[path] > size)
    page = copied / "report.html"
    page.write_text("an earlier page")
    with files_of_at_most(size):
        assert "report.html cannot be written" in error_of("report", str(copied))
    assert page.read_text() == "an earlier page"


def test_the_sweep_goes_on_where_it_was_answered(recommended: tuple[Path, str], tmp_path: Path) -> None:
    copied = shutil.copytree(recommended[0], tmp_path / "copy")
    for part in (copied / "parts").iterdir():
        part.unlink()
    file = copied.parent / "small.yaml"
    file.write_text((recommended[0].parent / "small.yaml").read_text())
    printed = command("sweep", str(file), "--out", str(copied), "--workers", "1")
    assert re.search(r"copy: (\d+) of \1 points, [1-9]\d* evaluations made now", printed)
    assert (copied / "recommendation.json").exists()


@pytest.mark.parametrize("name", ["sweep.yaml", "base.yaml"])
def test_a_copy_that_is_missing_is_named(swept: Path, tmp_path: Path, name: str) -> None:
    copied = shutil.copytree(swept, tmp_path / "copy")
    (copied / name).unlink()
    assert f"{copied / name} is missing; run the sweep again" in error_of("recommend", str(copied))


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
