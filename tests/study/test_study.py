"""A study from end to end: its numbers fit together, repeat exactly, and keep the promises made to scripts."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hispec_sim.errors import InputError
from hispec_sim.report.figures import draw_all
from hispec_sim.report.folder import write_results
from hispec_sim.report.summary import Summary
from hispec_sim.report.timeline import chrome_trace
from hispec_sim.scenario.load import load_scenario
from hispec_sim.study.study import Results, Study

REPOSITORY = Path(__file__).parents[2]
QUICK = REPOSITORY / "scenarios/quick.yaml"
SMALL = ("repetitions=3", "workload.output_tokens=64", "workload.requests=4")


def study(*overrides: str) -> Results:
    """The quick scenario, made smaller."""
    return Study(load_scenario(QUICK, [*SMALL, *overrides])).run()


@pytest.fixture(scope="module")
def results() -> Results:
    """One study for all tests that only look."""
    return study()


def policy(summary: Summary, name: str) -> Any:
    return next(policy for policy in summary.policies if policy.name == name)


def test_summary_has_what_scripts_depend_on(results: Results) -> None:
    """The promised keys, under their names, with values that fit together."""
    summary = json.loads(results.summary.model_dump_json())
    promised = {
        "name", "tokens_per_s", "speedup_vs_autoregressive", "speedup_vs_best_single_layer",
        "tokens_per_target_pass", "matched_per_drafted", "time_share",
    }  # fmt: skip
    assert [entry["name"] for entry in summary["policies"]] == ["autoregressive", "1B draft", "early exit", "hispec"]
    speed = {entry["name"]: entry["tokens_per_s"]["median"] for entry in summary["policies"]}
    best_single = max(speed["1B draft"], speed["early exit"])
    for entry in summary["policies"]:
        assert promised <= set(entry)
        assert set(entry["tokens_per_s"]) == {"median", "low", "high"}
        assert entry["tokens_per_s"]["low"] <= entry["tokens_per_s"]["median"] <= entry["tokens_per_s"]["high"]
        assert entry["speedup_vs_autoregressive"] == pytest.approx(speed[entry["name"]] / speed["autoregressive"])
        assert entry["speedup_vs_best_single_layer"] == pytest.approx(speed[entry["name"]] / best_single)
        assert list(entry["time_share"]) == entry["levels"]
        assert sum(entry["time_share"].values()) == pytest.approx(1)
        assert list(entry["matched_per_drafted"]) == entry["levels"][1:]
        assert all(0 <= share <= 1 for share in entry["matched_per_drafted"].values())
        assert entry["tokens_per_target_pass"] >= 1
    assert summary["format"] == "hispec-summary"
    assert summary["version"] == 1
    assert summary["seed"] == 1
    assert {"hispec_sim", "python", "numpy", "simpy"} <= set(summary["versions"])
    for network in summary["networks"]:
        assert {"command", "method", "date"} <= set(network["provenance"])
        assert {"layer_linear", "attention"} <= {error["op"] for error in network["interpolation_error"]}


def test_every_field_of_the_summary_is_documented_where_it_needs_to_be() -> None:
    """The policy's fields carry units and meaning in the schema that ships."""
    fields = Summary.model_json_schema()["$defs"]["PolicySummary"]["properties"]
    undocumented = [
        name for name, field in fields.items() if "description" not in field and name not in ("name", "levels")
    ]
    assert undocumented == []


def test_autoregressive_is_the_plain_sum_of_its_forwards(results: Results) -> None:
    """One forward of the batch per token: nothing else takes time."""
    steps = results.tables["steps"]
    forwards = steps[steps["policy"] == "autoregressive"].drop_duplicates("forward")
    assert (forwards["tokens"] == 1).all()
    expected = 1000 * 4 * 64 / forwards["duration_ms"].sum()
    assert policy(results.summary, "autoregressive").tokens_per_s.median == pytest.approx(expected)


def test_tables_agree_with_one_another(results: Results) -> None:
    """Committed tokens of the steps are the requests' output; forwards follow one another without a gap."""
    steps, requests = results.tables["steps"], results.tables["requests"]
    for name, rows in steps.groupby("policy"):
        assert rows["committed"].sum() == requests[requests["policy"] == name]["output_tokens"].sum()
        forwards = rows.drop_duplicates("forward")
        ends = forwards["start_ms"] + forwards["duration_ms"]
        assert forwards["start_ms"].iloc[1:].to_numpy() == pytest.approx(ends.iloc[:-1].to_numpy())
        assert requests[requests["policy"] == name]["end_ms"].max() == pytest.approx(ends.iloc[-1])
        verified = rows[rows["run"] > 0]["matched"].dropna()
        assert (verified <= rows.loc[verified.index, "run"]).all()


def test_same_seed_same_result_and_other_seed_other_result(results: Results) -> None:
    """Byte for byte."""
    again = study()
    assert again.summary.model_dump_json() == results.summary.model_dump_json()
    for name, table in results.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name])
    other = study("seed=2")
    assert policy(other.summary, "hispec").tokens_per_s != policy(results.summary, "hispec").tokens_per_s


def test_repetitions_and_policies_do_not_disturb_one_another(tmp_path: Path, results: Results) -> None:
    """Streams belong to (seed, repetition, request): a policy alone draws what it drew in company."""
    text = QUICK.read_text().replace("../profiles", str(REPOSITORY / "profiles"))
    start, end = text.index("  - name: 1B draft"), text.index("  - name: hispec")
    alone = tmp_path / "alone.yaml"
    alone.write_text(text[:start] + text[end:])
    summary = Study(load_scenario(alone, SMALL)).run().summary
    assert policy(summary, "hispec").tokens_per_s == policy(results.summary, "hispec").tokens_per_s
    assert policy(summary, "hispec").speedup_vs_best_single_layer is None


def test_sensitivity_moves_only_what_a_parameter_touches(results: Results) -> None:
    """A policy's own parameter leaves the others at their value; a better draft is never slower."""
    points = {(point.parameter, point.value): point for point in results.summary.sensitivity}
    assert len(points) == 2 * len(results.summary.parameters)
    main = {entry.name: entry.speedup_vs_autoregressive for entry in results.summary.policies}
    low, high = points["draft_1b", 0.55], points["draft_1b", 0.8]
    for name in ("early exit", "hispec"):
        assert low.speedup_vs_autoregressive[name] == pytest.approx(main[name])
    assert low.speedup_vs_autoregressive["1B draft"] < high.speedup_vs_autoregressive["1B draft"]
    assert high.best_policy == "1B draft"
    host = points["host_per_forward_ms", 1.0]
    assert host.speedup_vs_autoregressive["hispec"] < main["hispec"]  # many short forwards suffer most


def test_overrides_are_in_the_resolved_scenario() -> None:
    """`--set` reaches the run, and the summary says so."""
    summary = study("policies.hispec.levels.0.draft_length=1", "parameters.exit_8_off_path.value=0.5").summary
    resolved = next(entry for entry in summary.scenario["policies"] if entry["name"] == "hispec")
    assert resolved["levels"][0]["draft_length"] == 1
    assert resolved["acceptance"]["levels"][0]["off_path"] == 0.5


def test_timeline_is_a_chrome_trace_with_one_track_per_level(results: Results) -> None:
    """Complete events of each track are in order and do not overlap: the device runs one forward at a time."""
    levels = {entry.name: entry.levels for entry in results.summary.policies}
    trace = chrome_trace(results.tables["steps"], levels)
    events = json.loads(json.dumps(trace))["traceEvents"]
    names = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert len(names) == sum(map(len, levels.values()))
    for pid in range(1, len(levels) + 1):
        slices = [event for event in events if event["ph"] == "X" and event["pid"] == pid]
        assert slices
        for before, after in itertools.pairwise(slices):
            assert after["ts"] == pytest.approx(before["ts"] + before["dur"], abs=0.01)
        assert {(pid, event["tid"]) for event in slices} <= names


def test_figures_are_drawn(results: Results, tmp_path: Path) -> None:
    """Every figure exists and is more than an empty canvas."""
    wall = pd.DataFrame(
        {
            "tensor_parallel": [1, 1],
            "tokens": [1, 4],
            "verify_ms": [4.0, 4.2],
            "draft_ms": [1.0, 1.0],
            "ratio": [4.0, 4.2],
        }
    )
    summary = results.summary.model_copy(update={"scenario": {**results.summary.scenario, "wall": {"draft": "x"}}})
    files = draw_all(summary, wall, tmp_path)
    assert [file.name for file in files] == ["speedup.png", "time.png", "verification_wall.png", "sensitivity.png"]
    assert all(file.stat().st_size > 5000 for file in files)


def test_outside_the_measured_range_only_when_asked_and_then_said() -> None:
    """A batch beyond the profile's grid is refused; `allow_extrapolation` goes on and leaves a note."""
    wide = ("workload.concurrency=600", "workload.requests=600", "workload.output_tokens=4", "repetitions=1")
    with pytest.raises(InputError, match=r"at workload: .*outside the profiled range"):
        study(*wide)
    summary = study(*wide, "device={allow_extrapolation: true}").summary
    assert any(note.startswith("extrapolated:") for note in summary.notes)


def interrupt_after(n: int) -> Callable[[], None]:
    """A progress tick that presses Ctrl-C at the n-th run."""
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == n:
            raise KeyboardInterrupt

    return tick


def test_an_interrupt_keeps_the_policies_that_finished(tmp_path: Path) -> None:
    """What is done is reported and written, and what is missing is said."""
    loaded = load_scenario(QUICK, SMALL)
    partial = Study(loaded).run(interrupt_after(8))  # three runs each: in the third policy
    assert [entry.name for entry in partial.summary.policies] == ["autoregressive", "1B draft"]
    assert partial.interrupted
    assert "interrupted: without early exit, hispec" in partial.summary.notes
    files = write_results(tmp_path / "out", partial.summary, partial.tables, {"traceEvents": []}, force=False)
    assert all(file.exists() for file in files)
    with pytest.raises(KeyboardInterrupt):
        Study(loaded).run(interrupt_after(1))
    in_sensitivity = Study(loaded).run(interrupt_after(15))
    assert len(in_sensitivity.summary.policies) == 4
    assert len(in_sensitivity.summary.sensitivity) % 2 == 0


def test_a_failed_write_leaves_nothing_behind(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results appear whole or not at all."""

    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr("hispec_sim.report.folder.draw_all", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_results(tmp_path / "out", results.summary, results.tables, {}, force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_simulation_never_imports_torch(tmp_path: Path) -> None:
    """The core install has no torch, and one that has it does not pay for it."""
    program = (
        "import sys\n"
        "sys.argv = ['run_sim.py', 'scenarios/quick.yaml', '--set', 'repetitions=1', '--out', sys.argv[1]]\n"
        "try:\n    import runpy; runpy.run_path('run_sim.py', run_name='__main__')\n"
        "except SystemExit as exit: assert not exit.code, exit.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], cwd=REPOSITORY, check=True)
