"""A sweep that is killed at any moment loses at most the chunk it was at, and goes on to the same results."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from sweep_files import space, sweep, text

from hispec_sim.sweep.results import read_results
from hispec_sim.sweep.store import Store

AXES = "\n  exit_4: [0.4, 0.5, 0.6]\n  nd: [1, 2, 3, 4]\n  ni: [4, 6, 8]"
CONTENT = text(AXES, output_tokens=64)


def _child(folder: Path, workers: int) -> None:
    sweep(space(folder, CONTENT), folder / "out", workers, choice="simpy")


def _killed(folder: Path, workers: int, moments: int) -> None:
    context = multiprocessing.get_context("forkserver")  # a process that has loaded everything starts at once
    context.set_forkserver_preload(["hispec_sim.sweep.run", "hispec_sim.sweep.runners.local"])
    folder.mkdir()
    reference = folder / "reference"
    reference.mkdir()
    over = space(reference, CONTENT)
    began = time.monotonic()
    sweep(over, reference / "out", choice="simpy")
    whole_s = time.monotonic() - began
    expected = Store(reference / "out").finished()
    rng = random.Random(moments)
    kept = 0
    for _ in range(moments):
        process = context.Process(target=_child, args=(folder, workers))
        process.start()
        time.sleep(rng.uniform(0, whole_s / 2 + workers))
        process.kill()
        process.join()
        if (folder / "out" / "meta.json").exists():
            found = Store(folder / "out").finished()
            assert len(found) >= kept, "what was finished stays"
            assert all(repr(expected[key]) == repr(figures) for key, figures in found.items()), "NaN is not itself"
            kept = len(found)
            if kept == len(expected):  # start over: the moments are to fall on every stage
                for path in (folder / "out" / "parts").iterdir():
                    path.unlink()
                kept = 0
    outcome = sweep(space(folder, CONTENT), folder / "out", choice="simpy")
    assert outcome.computed == len(expected) - kept
    pd.testing.assert_frame_equal(outcome.results.table, read_results(reference / "out").table)
    parts = [pq.read_table(path) for path in (folder / "out" / "parts").iterdir()]
    rows = Counter(point for part in parts for point in part.column("point").to_pylist())
    assert set(rows.values()) == {1}, "nothing is there twice"
    assert not list((folder / "out").rglob(".unfinished*"))


def test_killed_a_few_times(tmp_path: Path) -> None:
    _killed(tmp_path / "sweep", workers=1, moments=4)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_fifty_times(tmp_path: Path, workers: int) -> None:
    _killed(tmp_path / "sweep", workers, moments=50)


@pytest.mark.parametrize(
    ("end", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow)],
)
def test_worker_processes_end_with_the_command(tmp_path: Path, end: signal.Signals, status: int) -> None:
    (tmp_path / "small.yaml").write_text(text(AXES, output_tokens=15_000))
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # whoever started pytest
    main = f"{heard}from hispec_sim.cli.main import main; main()"
    arguments = ["sweep", "small.yaml", "--workers", "2", "--engine", "simpy", "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", main, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _wait_for(lambda: any((tmp_path / "out" / "parts").glob("*.parquet")))
    (os.killpg if end is signal.SIGINT else os.kill)(process.pid, end)
    told = process.communicate(timeout=30)[0]
    assert process.returncode == status
    assert ("interrupted; run the same command again to go on" in told) == (end is signal.SIGINT)
    _wait_for(lambda: not _group_lives(process.pid))
    assert len(read_results(tmp_path / "out").table) >= 1


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
