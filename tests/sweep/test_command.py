"""`hispec sweep` on the command line: what it shows, and one clear sentence for what is wrong."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest
from sweep_files import text

from hispec_sim.cli.main import main
from hispec_sim.sweep.results import read_results

SMALL = text(axes="\n  exit_4: [0.4, 0.6]\n  nd: [1, 2]\n  ni: [2]\n  workload.concurrency: [1]")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a small sweep file lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Status, output and error output."""
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", *arguments])
    shown = capsys.readouterr()
    return int(exit_.value.code or 0), shown.out, shown.err


def test_what_a_sweep_shows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capsys, "small.yaml", "--workers", "1")
    assert status == 0
    assert out.startswith("small: 9 points of 9 combinations\n")
    assert "the 9 fastest of 9 points" in out
    assert "the fastest of each policy" in out
    best = read_results(folder / "results" / "small").table.nlargest(1, "tokens_per_s").iloc[0]
    first = next(line for line in out.splitlines() if best["policy"] in line and "tokens/s" not in line)
    assert f"{best['tokens_per_s']:.1f} [" in first
    assert "points repeated on SimPy: tokens/s differs by at most" in out
    assert "results/small: 9 of 9 points" in out
    assert "0 evaluations made now" in command(capsys, "small.yaml", "--workers", "1")[1]


def test_keys_can_be_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--set", "axes.nd=[2]", "--set", "constraints=[exit_4 > 0.5]", "--set", "repetitions=3")
    assert command(capsys, "small.yaml", *settings, "--workers", "1", "--engine", "simpy")[0] == 0
    table = read_results(folder / "results" / "small").table
    assert table["policy"].tolist() == ["autoregressive", "early exit", "hispec"]
    assert (table["repetitions"] == 3).all()
    assert table["exit_4"].tolist()[1:] == [0.6, 0.6]


def test_a_search_shows_its_best(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capsys, "small.yaml", "--workers", "1", "--search", "5")
    assert status == 0
    assert out.startswith("small: a search with 5 evaluations in 9 combinations\n")
    assert "5 of 5 points" in out


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("pyarrow", (), "sweep"),
        ("optuna", ("--search", "5"), "sweep"),
        ("ray", ("--runner", "ray"), "cluster"),
    ],
)
def test_a_missing_package_is_named(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    arguments: tuple[str, ...],
    extra: str,
) -> None:
    for name in list(sys.modules):
        if name.startswith(("hispec_sim.sweep.", f"{missing}.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    status, _, err = command(capsys, "small.yaml", *arguments)
    assert status == 2
    assert err == f'error: this command needs {missing}: pip install "hispec-sim[{extra}]"\n'


@pytest.mark.filterwarnings("default")
def test_a_cluster_that_does_not_answer_is_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="the extra [cluster] is not installed")
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        began = time.monotonic()
        status, _, err = command(capsys, "small.yaml", "--runner", "ray", "--address", address)
    assert status == 2
    assert f"error: no Ray cluster answers at {address}: " in err
    assert err.endswith("Connection refused; start one with `ray start --head`\n")
    assert time.monotonic() - began < 20
    assert sorted(path.name for path in folder.iterdir()) == ["small.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone.yaml",), "there is no file gone.yaml"),
        (("small.yaml", "--address", "auto"), "give --runner ray with it"),
        (("small.yaml", "--runner", "ray", "--workers", "2"), "--workers is for processes of this machine"),
        (("small.yaml", "--set", "axes.nd=[7]", "--set", "constraints=[nd < ni]", "--set", "verify=3"), "at verify"),
        (("small.yaml", "--out", "small.yaml"), "small.yaml is a file; give another place with --out"),
        (("small.yaml", "--out", "."), "holds something else than a sweep"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    status, _, err = command(capsys, *arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["small.yaml"]
