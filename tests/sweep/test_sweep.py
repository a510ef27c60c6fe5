"""Whole sweeps: figures are those of the engine, are computed once, and do not depend on who computes them."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path

import pandas as pd
import pytest
from sweep_files import silent, space, sweep, text

from hispec_sim.errors import InputError
from hispec_sim.scenario.build import build_costs, build_policy
from hispec_sim.study.run import run_policy
from hispec_sim.sweep.evaluate import Figures
from hispec_sim.sweep.identity import point_hash
from hispec_sim.sweep.results import read_results
from hispec_sim.sweep.run import Run
from hispec_sim.sweep.runners.chunk import Chunk, Done, evaluate_chunk
from hispec_sim.sweep.space import Space


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Space, Path]:
    """A sweep that has run on the SimPy engine."""
    folder = tmp_path_factory.mktemp("finished")
    over = space(folder)
    assert sweep(over, folder / "out", choice="simpy").computed == 34
    return over, folder / "out"


def test_a_row_is_the_engines_run_of_that_scenario(finished: tuple[Space, Path]) -> None:
    results = read_results(finished[1])
    assert len(results.table) == 34
    for _, row in results.table.iloc[::7].iterrows():
        loaded = results.scenario(row)
        assert point_hash(loaded) == row["point"]
        costs = build_costs(loaded)
        n_layers = {name: cost.profile.network.n_layers for name, cost in costs.items()}
        runs = run_policy(loaded.scenario, build_policy(loaded, 0, n_layers), costs, loaded.scenario.repetitions)
        assert json.loads(row["tokens_per_s_runs"]) == [metrics.tokens_per_s for metrics in runs.metrics]
        assert row["tokens_per_s"] == runs.median("tokens_per_s")
        assert row["tpot_ms_low"] <= row["tpot_ms"] == runs.median("tpot_ms") <= row["tpot_ms_high"]
        assert row["tokens_per_target_pass"] == runs.median("tokens_per_target_pass")
        assert [level["exit_layer"] for level in json.loads(row["levels"])] == [
            level.exit_layer for level in runs.policy.cascade.levels
        ]
        share = [sum(metrics.time_share[k] for metrics in runs.metrics) / 2 for k in range(row["n_levels"])]
        assert json.loads(row["time_share"]) == pytest.approx(share)
        assert json.loads(row["matched_per_drafted"])[0] is None


def test_axes_a_policy_does_not_use_are_empty(finished: tuple[Space, Path]) -> None:
    table = read_results(finished[1]).table
    assert table.columns[:6].tolist() == ["point", "policy", "exit_4", "workload.concurrency", "nd", "ni"]
    used = table.groupby("policy")[["exit_4", "workload.concurrency", "nd", "ni"]].count()
    assert used.loc["autoregressive"].tolist() == [0, 2, 0, 0]
    assert used.loc["early exit"].tolist() == [12, 12, 12, 0]
    assert used.loc["hispec"].tolist() == [20, 20, 20, 20]


def test_a_second_run_computes_nothing(finished: tuple[Space, Path]) -> None:
    over, folder = finished
    before = read_results(folder).table
    assert sweep(over, folder, choice="simpy").computed == 0
    pd.testing.assert_frame_equal(read_results(folder).table, before)


def test_nothing_is_screened_that_is_known_better(finished: tuple[Space, Path]) -> None:
    outcome = sweep(*finished)
    assert (outcome.computed, outcome.disagreement) == (0, None)


def test_a_wider_sweep_computes_what_is_new_alone(tmp_path: Path) -> None:
    narrow = text(axes="\n  exit_4: [0.4]\n  nd: [1]\n  ni: [2]")
    assert sweep(space(tmp_path, narrow), tmp_path / "out", choice="simpy").computed == 3
    wide = space(tmp_path, narrow.replace("[0.4]", "[0.4, 0.6]"))
    outcome = sweep(wide, tmp_path / "out", choice="simpy")
    assert (outcome.computed, len(outcome.results.table)) == (2, 5)


def test_workers_change_nothing(finished: tuple[Space, Path], tmp_path: Path) -> None:
    sweep(finished[0], tmp_path / "out", workers=2, choice="simpy")
    pd.testing.assert_frame_equal(read_results(tmp_path / "out").table, read_results(finished[1]).table)


@pytest.mark.slow
def test_eight_workers_change_nothing(finished: tuple[Space, Path], tmp_path: Path) -> None:
    sweep(finished[0], tmp_path / "out", workers=8, choice="simpy")
    pd.testing.assert_frame_equal(read_results(tmp_path / "out").table, read_results(finished[1]).table)


def test_screening_agrees_and_is_verified(finished: tuple[Space, Path], tmp_path: Path) -> None:
    outcome = sweep(finished[0], tmp_path / "out")
    screened = read_results(tmp_path / "out").table
    true = read_results(finished[1]).table
    single = true[true["concurrency"] == 1].sort_values("tokens_per_s", ascending=False)  # the rest was not screened
    wanted = {*single["point"].head(3), *single.drop_duplicates("policy")["point"]}
    repeated = set(screened[(screened["concurrency"] == 1) & (screened["engine"] == "simpy")]["point"])
    assert len(single) == 17
    assert wanted < repeated
    assert len(repeated) == len(wanted) + 3, "three leading ones, the best of each policy, and three others"
    assert outcome.disagreement is not None
    assert outcome.disagreement.largest < 1e-9
    assert outcome.disagreement.points == len(repeated) == outcome.computed - 34
    assert screened["tokens_per_s"].tolist() == pytest.approx(true["tokens_per_s"].tolist())


def test_a_wrong_screening_is_found_out(tmp_path: Path) -> None:
    over = space(tmp_path, text(axes="\n  exit_4: [0.4, 0.6]\n  nd: [1, 2]\n  ni: [2]\n  workload.concurrency: [1]"))

    def runner(chunks: Sequence[Chunk]) -> Generator[Done, None, None]:
        for chunk in chunks:
            figures = evaluate_chunk(over, chunk)
            if chunk.engine == "vectorised":
                slow = figures[-1]
                figures[-1] = Figures(
                    tuple(0.8 * x for x in slow.tokens_per_s), *(getattr(slow, name) for name in Figures.__slots__[1:])
                )
            yield chunk, figures

    outcome = Run(over, tmp_path / "out", runner, "auto", "a test", silent).all_points()
    assert outcome.disagreement is not None
    assert outcome.disagreement.largest == pytest.approx(0.2)


def test_the_vectorised_evaluator_alone_refuses_what_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"concurrency=2\) needs the SimPy engine \(concurrency 2.*--engine auto"):
        sweep(space(tmp_path), tmp_path / "out", choice="vectorised")


def test_ctrl_c_keeps_finished_chunks(finished: tuple[Space, Path], tmp_path: Path) -> None:
    over = finished[0]

    def interrupted(chunks: Sequence[Chunk]) -> Generator[Done, None, None]:
        for chunk in chunks[:3]:
            yield chunk, evaluate_chunk(over, chunk)
        raise KeyboardInterrupt

    outcome = Run(over, tmp_path / "out", interrupted, "simpy", "a test", silent).all_points()
    kept = outcome.computed
    assert outcome.interrupted
    assert 3 <= kept == len(outcome.results.table) < 34
    assert outcome.results.meta["n_points"] == 34
    assert sweep(over, tmp_path / "out", choice="simpy").computed == 34 - kept
    pd.testing.assert_frame_equal(read_results(tmp_path / "out").table, read_results(finished[1]).table)


def test_latency_that_is_not_measured_names_the_point(tmp_path: Path) -> None:
    content = text(axes="\n  workload.prompt_tokens: [64, 900000]\n  exit_4: [0.5]\n  nd: [1]\n  ni: [2]")
    with pytest.raises(InputError, match=r"at workload: .*\(at workload.prompt_tokens=900000; a constraint can leave"):
        sweep(space(tmp_path, content), tmp_path / "out")


def test_the_hash_follows_what_counts(tmp_path: Path) -> None:
    def hashes(content: str) -> set[str]:
        return {point_hash(point.scenario()) for point in space(tmp_path, content).points()}

    content = text(axes="\n  exit_4: [0.4]\n  nd: [1]\n  ni: [2]")
    first = hashes(content)
    assert len(first) == 3
    assert hashes(content.replace("name: hispec", "name: other").replace("name: small", "name: big")) == first
    for change in (
        ("repetitions: 2", "repetitions: 3"),
        ("repetitions: 2", "repetitions: 2\nseed: 7"),
        ("requests: 2", "requests: 3"),
        ("verify: ", "device: {elementwise_scale: 1.5}\nverify: "),
        ("verify: ", f"networks: {{llama-3.1-8b: {{profile: {copy_of_profile(tmp_path)}}}}}\nverify: "),
    ):
        assert not hashes(content.replace(*change)) & first, change


def copy_of_profile(folder: Path) -> Path:
    """A profile with another time in its last row."""
    source = Path(__file__).parents[2] / "profiles" / "h100_sxm" / "llama-3.1-8b.csv"
    path = folder / "copy.csv"
    lines = source.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:-1], lines[-1].replace(lines[-1].split(",")[5], "9.0")]))
    return path


def test_a_search_goes_on_from_what_the_store_has(tmp_path: Path) -> None:
    over = space(tmp_path, text().replace("[1, 2]", "[1]"))
    first = sweep(over, tmp_path / "out", choice="vectorised", search=12)
    again = sweep(over, tmp_path / "out", choice="vectorised", search=12)
    assert (len(first.results.table), first.computed, again.computed) == (12, 12, 0)
    pd.testing.assert_frame_equal(again.results.table, first.results.table)
