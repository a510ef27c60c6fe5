"""Golden traces: a fixed seed gives the exact log that is checked in under `golden/`.

A change of one of these files is a change of results, to be understood and stated in the changelog. Write them anew
with `HISPEC_REGENERATE=1 python -m pytest tests/core/test_golden_trace.py` and read the diff.
"""

from __future__ import annotations

import os
from itertools import chain, pairwise
from pathlib import Path

import pytest
from simulated import DRAFT_EXIT_TARGET, HISPEC, TellingCost, cascade, simulate

from hispec_sim.acceptance.models import AcceptanceModel, Correlated, Independent, LevelAgreement
from hispec_sim.cascade import Bonus, Cascade
from hispec_sim.scheduler import Grouping
from hispec_sim.simulate.engine import RunLog
from hispec_sim.simulate.metrics import member_forward

GOLDEN = Path(__file__).parent / "golden"
HEADER = "start_ms request level network layers tokens@position logits matched committed"

CORRELATED = Correlated((LevelAgreement(0.7, 0.7, 0.3), LevelAgreement(0.95, 0.6, 0.5)), clustering=0.5)
RUNS: dict[str, tuple[Cascade, AcceptanceModel, list[tuple[int, int]], int]] = {
    "hispec": (cascade(*HISPEC), Independent((0.7, 0.9)), [(16, 40)], 1),
    "draft_exit_target": (cascade(*DRAFT_EXIT_TARGET, bonus=Bonus.ALWAYS), CORRELATED, [(16, 40)], 1),
    "batch_of_3": (cascade(*HISPEC, bonus=Bonus.ALWAYS), CORRELATED, [(16, 20), (40, 12), (8, 24), (30, 10)], 3),
}


def run(name: str, seed: int = 0) -> RunLog:
    decoded_with, model, lengths, concurrency = RUNS[name]
    return simulate(
        decoded_with,
        model,
        lengths,
        seed=seed,
        cost=TellingCost(),
        concurrency=concurrency,
        grouping=Grouping.WAIT_TO_GROUP,
    )


def trace(log: RunLog) -> str:
    """One line per member of a device forward; those that share a start time share the forward."""
    lines = [HEADER]
    starts_ms, clock_ms = [], 0.0
    for duration_ms in log.duration_ms:
        starts_ms.append(clock_ms)
        clock_ms += duration_ms
    for move, request, forward_index in zip(log.move, log.request, member_forward(log), strict=True):
        node, forward = move.source, move.source.forward
        matched = "-" if move.matched < 0 else f"{move.matched}/{node.run}"
        lines.append(
            f"{starts_ms[forward_index]:.6f} {request.index} {node.level} {forward.network} "
            f"{forward.first_layer}-{forward.last_layer} {forward.tokens}@{forward.position} {forward.logits} "
            f"{matched} {move.committed}"
        )
    lines.append(f"{clock_ms:.6f} end")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", RUNS)
def test_golden_trace(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    found = trace(run(name))
    if os.environ.get("HISPEC_REGENERATE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found.splitlines() == path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", RUNS)
def test_same_seed_same_log_other_seed_other_log(name: str) -> None:
    assert trace(run(name, seed=5)) == trace(run(name, seed=5))
    assert trace(run(name, seed=5)) != trace(run(name, seed=6))


def test_the_golden_runs_show_what_matters() -> None:
    """Rejections, full matches, catching up, a bonus through the lower layers and ragged batches all occur."""
    lines = {name: [line.split() for line in trace(run(name)).splitlines()[1:-1]] for name in RUNS}
    verdicts = [line[7].split("/") for line in chain(*lines.values()) if line[7] != "-"]
    assert any(matched < run for matched, run in verdicts)
    assert any(matched == run != "0" for matched, run in verdicts)
    assert any(line[3] == "D" and line[5].startswith("2@") for line in lines["draft_exit_target"])
    assert any(line[7] == "-" for line in lines["draft_exit_target"])
    assert any(a[0] == b[0] and a[5] != b[5] for a, b in pairwise(lines["batch_of_3"]))
    assert {line[1] for line in lines["batch_of_3"]} == {"0", "1", "2", "3"}
