"""Sweeps on a Ray cluster of two nodes in this machine give what local processes give, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweep_files import silent, space, sweep, text

from hispec_sim.errors import InputError
from hispec_sim.sweep.run import Outcome, Run
from hispec_sim.sweep.space import Space

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="the extra [cluster] is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)  # of its workers
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        yield nodes
        ray.shutdown()
        nodes.shutdown()


def on_ray(over: Space, folder: Path, cluster: Any) -> Outcome:
    from hispec_sim.sweep.runners.cluster import cluster_runner

    with cluster_runner(over.sweep, cluster.address) as runner:
        return Run(over, folder, runner, "simpy", "a test", silent).all_points()


@pytest.mark.filterwarnings("default")
def test_the_results_are_those_of_local_processes(tmp_path: Path, cluster: Any) -> None:
    over = space(tmp_path)
    outcome = on_ray(over, tmp_path / "ray", cluster)
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    local = sweep(over, tmp_path / "local", choice="simpy")
    pd.testing.assert_frame_equal(outcome.results.table, local.results.table)


@pytest.mark.filterwarnings("default")
def test_a_killed_worker_changes_nothing(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from hispec_sim.sweep.runners import cluster as room

    content = text("\n  exit_4: [0.4, 0.5, 0.6]\n  nd: [1, 2, 3]\n  ni: [4, 6]", output_tokens=20_000)
    content = content.replace("workload: {", "workload: {prompt_tokens: 16, ")
    over = space(tmp_path, content)
    killed: list[int] = []
    first_done = room.ray.wait

    def wait(waiting: Any, num_returns: int) -> Any:
        """Kills a worker that is at a chunk, once the first has been given back."""
        done = first_done(waiting, num_returns=num_returns)
        while not killed:
            busy = [pid for pid in worker_pids() if cpu_seconds(pid) > 1]
            for pid in busy[-1:]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.1)
        return done

    monkeypatch.setattr(room.ray, "wait", wait)
    outcome = on_ray(over, tmp_path / "ray", cluster)
    assert killed
    local = sweep(over, tmp_path / "local", choice="simpy", workers=2)
    pd.testing.assert_frame_equal(outcome.results.table, local.results.table)


@pytest.mark.filterwarnings("default")
def test_an_error_of_the_input_comes_back_as_one(tmp_path: Path, cluster: Any) -> None:
    content = text(axes="\n  workload.prompt_tokens: [64, 900000]\n  exit_4: [0.5]\n  nd: [1]\n  ni: [2]")
    with pytest.raises(InputError, match=r"\(at workload.prompt_tokens=900000; a constraint can leave") as found:
        on_ray(space(tmp_path, content), tmp_path / "out", cluster)
    assert "\n" not in str(found.value)


def worker_pids() -> list[int]:
    """Ray's workers that run a chunk have this in their title."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"ray::_evaluate" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a process; 0 when it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
