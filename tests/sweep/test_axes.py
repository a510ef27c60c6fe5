"""Everything that the guide says can vary does vary what is simulated."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from sweep_files import SCENARIOS, space

from hispec_sim.sweep.evaluate import evaluate

PROFILES = SCENARIOS.parent / "profiles"
EVERY = {
    "draft_exit": "[2, 4]",
    "middle_exit": "[8, 16]",
    "nd": "{from: 1, to: 3}",
    "policies.hispec.levels.2.verify_period": "[4, 8]",
    "policies.hispec.bonus": "[always, on_mismatch]",
    "networks.llama-3-8b.tensor_parallel": "[1, 2, 4]",
    "workload.concurrency": "[1, 4, 16]",
    "workload.prompt_tokens": "[128, 4096]",
    "workload.output_tokens": "[32, 64]",
    "exit_3": "[0.5, 0.6]",
    "device_name": "[h100_sxm, h200_sxm]",
    "device.host.per_forward_ms": "[0.0, 0.5]",
}
BASE_VALUES = {"draft_exit": "[3]", "middle_exit": "[8]", "nd": "[2]", "device_name": "[h100_sxm]", "exit_3": "[0.6]"}


@pytest.mark.parametrize("axis", EVERY)
def test_what_can_vary(tmp_path: Path, axis: str) -> None:
    axes = {**BASE_VALUES, axis: EVERY[axis]}
    content = f"""
name: every
base: {SCENARIOS / "hispec_llama3_8b.yaml"}
repetitions: 1
axes: {{{", ".join(f"{name}: {values}" for name, values in axes.items())}}}
networks:
  llama-3-8b:
    profile: "{PROFILES}/${{device_name}}/llama-3.1-8b.csv"
    exit_curve: {{shape: codellama-34b, through: [{{exit_layer: 3, accept: $exit_3}}, {{exit_layer: 8, accept: 0.73}}]}}
device: {{host: {{per_layer_ms: 0.0}}}} # else launches hide what a longer context costs
workload: {{concurrency: 1, requests: 16, prompt_tokens: 512, output_tokens: 64}}
policies:
  - name: hispec
    levels:
      - {{network: llama-3-8b, exit_layer: $draft_exit, draft_length: $nd}}
      - {{network: llama-3-8b, exit_layer: $middle_exit}}
      - {{network: llama-3-8b, verify_period: 4}}
    acceptance: {{model: chain}}
"""
    points = space(tmp_path, content).points()
    assert len(points) >= 2
    speeds = [evaluate("simpy", [point.scenario()])[0].tokens_per_s for point in points]
    assert all(one != another for one, another in pairwise(speeds))


def test_the_guide_names_them() -> None:
    guide = (SCENARIOS.parent / "docs/sweeps.md").read_text(encoding="utf-8")
    for key in (
        "workload.concurrency",
        "workload.prompt_tokens",
        ".tensor_parallel",
        ".bonus",
        "${device}",
        "exit_curve",
    ):
        assert key in guide
