"""The design space: which points there are, what stands in their scenarios, and what is wrong with a file."""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path

import pytest
from sweep_files import SCENARIOS, space, text

from hispec_sim.errors import InputError
from hispec_sim.sweep.copy import texts_of
from hispec_sim.sweep.load import load_sweep
from hispec_sim.sweep.plan import plan
from hispec_sim.sweep.space import Space


def test_a_policy_spans_the_axes_that_it_uses(tmp_path: Path) -> None:
    points = space(tmp_path).points()
    found = [(point.policy, tuple(point.values.values())) for point in points]
    speeds, concurrencies, nds, nis = (0.4, 0.6), (1, 2), (1, 2, 3), (2, 4)
    assert found == [
        *(("autoregressive", (c,)) for c in concurrencies),
        *(("early exit", values) for values in product(speeds, concurrencies, nds)),
        *(("hispec", values) for values in product(speeds, concurrencies, nds, nis) if values[2] <= values[3]),
    ]


def test_values_stand_in_the_scenario(tmp_path: Path) -> None:
    last = space(tmp_path).points()[-1].scenario().scenario
    (policy,) = last.policies
    assert (policy.name, last.workload.concurrency, last.repetitions) == ("hispec", 2, 2)
    assert policy.levels[0].draft_length == 3
    assert policy.levels[2].verify_period == 4
    assert policy.acceptance is not None
    assert policy.acceptance.model_dump()["accept"] == [0.6, 0.9]
    assert set(last.networks) == {"llama-3.1-8b"}


def test_a_points_parameters_can_be_varied(tmp_path: Path) -> None:
    point = space(tmp_path).points()[-1].scenario()
    assert point.scenario.device.host.per_forward_ms == 0.2
    assert point.with_parameter("host_per_forward_ms", 0.7).scenario.device.host.per_forward_ms == 0.7
    assert "exit_4" not in point.scenario.parameters, "its axis has set it"


def test_an_axis_chooses_networks_and_files(tmp_path: Path) -> None:
    content = f"""
name: choice
base: {SCENARIOS / "quick.yaml"}
axes:
  draft: [llama-3.2-1b, llama-3.1-8b]
  device: [h100_sxm, h200_sxm]
networks:
  llama-3.1-8b: {{profile: "{SCENARIOS.parent}/profiles/${{device}}/llama-3.1-8b.csv"}}
policies:
  - name: draft
    levels: [{{network: $draft, draft_length: 2}}, {{network: llama-3.1-8b}}]
    acceptance: {{model: independent, accept: [0.5]}}
"""
    scenarios = [point.scenario().scenario for point in space(tmp_path, content).points()]
    profiles = [{name: str(network.profile) for name, network in found.networks.items()} for found in scenarios]
    assert [set(found) for found in profiles] == [{"llama-3.2-1b", "llama-3.1-8b"}] * 2 + [{"llama-3.1-8b"}] * 2
    assert ["h200_sxm" in found["llama-3.1-8b"] for found in profiles] == [False, True, False, True]


def test_the_copy_reads_back_to_the_same_points(tmp_path: Path) -> None:
    over = space(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name, content in texts_of(over.sweep).items():
        (elsewhere / name).write_text(content)
    again = Space(load_sweep(elsewhere / "sweep.yaml"))
    assert [point.row for point in plan(again.points())] == [point.row for point in plan(over.points())]


@pytest.mark.parametrize(
    ("axes", "constraints", "message"),
    [
        ("\n  exit_44: [0.5]", "[]", r"line 6, at axes.exit_44: nothing has the name exit_44.*did you mean 'exit_4'"),
        (
            "\n  nd: [1]\n  ni: [4]\n  workload.conc: [1]",
            "[]",
            r"line 8, .*unknown key 'conc'; known here: concurrency",
        ),
        ("\n  workers.conc: [1]", "[]", r"line 6, at axes.workers.conc: there is no 'workers' here"),
        ("\n  draft_1b: [0.5]", "[]", r"the parameter draft_1b is used nowhere"),
        ("\n  nd: []\n  ni: [4]", "[]", r"at least one value"),
        ("\n  nd: [2, 2]\n  ni: [4]", "[]", r"stands here twice"),
        ("\n  nd: {from: 3, to: 1}\n  ni: [4]", "[]", r"from 3 to 1 is empty"),
        ("\n  nd: [1]\n  ni: [4]", "[nd < mi]", r"'mi' is neither an axis nor a parameter"),
        ("\n  nd: [1]\n  ni: [4]\n  bonus: [1]", "[]", r"bonus is a column of every sweep's table"),
        ("\n  nd: [0]\n  ni: [4]", "[]", r"greater than or equal to 1, got 0 \(at nd=0"),
        ("\n  nd: [4]\n  ni: [4]\n  workload.prompt_tokens: [1, x]", "[]", r"line 8, .*got 'x'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, axes: str, constraints: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(space(tmp_path, text(axes, constraints)).points())


@pytest.mark.parametrize("key", ["workload.conc", "policies.hispec.bonuss"])
def test_an_unknown_key_is_no_matter_of_points(tmp_path: Path, key: str) -> None:
    """No constraint cures it."""
    with pytest.raises(InputError, match=r"unknown key '(conc|bonuss)'") as found:
        plan(space(tmp_path, text(f"\n  exit_4: [0.5]\n  nd: [1]\n  ni: [4]\n  {key}: [1]", "[]")).points())
    assert "constraint" not in str(found.value)
    assert "(at " not in str(found.value)


def test_an_empty_space_names_the_constraint(tmp_path: Path) -> None:
    only = "name: hispec"
    content = text(constraints="[nd > 0, nd > ni + 1]")
    content = content[: content.index("policies:")] + "policies:\n  - " + content[content.index(only) :]
    with pytest.raises(InputError, match=r"no point of policy 'hispec' meets 'nd > ni \+ 1'"):
        space(tmp_path, content).points()
    with pytest.raises(
        InputError, match=r"no point of policy 'hispec' meets all constraints together; they contradict"
    ):
        space(tmp_path, content.replace("nd > 0, nd > ni + 1", "nd > 2, nd < 2")).points()


def test_a_policy_without_points_is_not_left_out(tmp_path: Path) -> None:
    """Constraints that only hispec cannot meet would leave a sweep that answers another question."""
    with pytest.raises(InputError, match=r"at constraints.1: no point of policy 'hispec' meets 'ni > 100'"):
        space(tmp_path, text(constraints="[nd > 0, ni > 100]")).points()


@pytest.mark.parametrize("constraints", ["[]", "[nd + exit_4 + ni > 0]"])
def test_a_billion_points_are_refused_at_once(tmp_path: Path, constraints: str) -> None:
    many = "\n  exit_4: {from: 0.1, to: 0.9, step: 0.0008}\n  nd: {from: 1, to: 1000}\n  ni: {from: 1, to: 1000}"
    began = time.thread_time()
    with pytest.raises(InputError, match=r"1,00\d,00\d,00\d combinations.*--search"):
        space(tmp_path, text(many, constraints)).points()
    assert time.thread_time() - began < 5


@pytest.mark.parametrize("file", sorted((SCENARIOS / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_sweeps_can_run(file: Path) -> None:
    over = Space(load_sweep(file))
    points = over.points()
    assert len({point.policy for point in points}) == len(over.parts) >= 3
    assert len(plan(points[:: max(1, len(points) // 50)])) >= 50


def test_the_documented_sweep_is_one(tmp_path: Path) -> None:
    page = (SCENARIOS.parent / "docs" / "sweeps.md").read_text()
    content = page.split("```yaml\n")[1].split("```")[0].replace("../quick.yaml", str(SCENARIOS / "quick.yaml"))
    planned = plan(space(tmp_path, content).points())
    policies = [point.point.policy for point in planned]
    assert {name: policies.count(name) for name in policies} == {"autoregressive": 2, "hispec": 44}
