"""Sweep tables made by hand, and a small sweep of real scenarios, without a sweep file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from typer.testing import CliRunner

from hispec_sim.cli.main import app
from hispec_sim.scenario.load import LoadedScenario, load_scenario

NETWORK = "llama-3.1-8b"


def row(point: str, tokens_per_s: float, *levels: tuple[int, int], **more: Any) -> dict[str, Any]:
    """A point on one network: `levels` are (exit layer, verify period), draft first; none for autoregressive."""
    all_levels = levels or ((32, 0),)
    return {
        "point": point,
        "policy": ("autoregressive", "early exit", "hispec")[len(all_levels) - 1],
        "n_levels": len(all_levels),
        "levels": json.dumps([{"network": NETWORK, "exit_layer": e, "verify_period": p} for e, p in all_levels]),
        "bonus": "always",
        "concurrency": 1,
        "prompt_tokens": 512,
        "output_tokens": 64,
        "tokens_per_s": tokens_per_s,
        "tpot_ms": 1000 / tokens_per_s,
        **more,
    }


SCENARIO = """
name: small
seed: 1
repetitions: 4
parameters:
  exit_4: {{value: {exit_4}, source: "assumed: for a test", range: [0.05, 0.95]}}
networks:
  llama-3.1-8b: {{roofline: {{network: llama-3.1-8b, device: h100_sxm}}}}
device: {{jitter: none}}
workload: {{concurrency: {concurrency}, requests: 4, prompt_tokens: 512, output_tokens: 64}}
policies:
  - {policy}
"""
POLICIES = {
    "autoregressive": "{name: autoregressive, levels: [{network: llama-3.1-8b}]}",
    "early exit": """{name: early exit, bonus: always, levels: [
      {network: llama-3.1-8b, exit_layer: 4, draft_length: %d}, {network: llama-3.1-8b}],
    acceptance: {model: independent, accept: [$exit_4]}}""",
    "hispec": """{name: hispec, levels: [{network: llama-3.1-8b, exit_layer: 4, draft_length: 2},
      {network: llama-3.1-8b, exit_layer: 8}, {network: llama-3.1-8b, verify_period: 4}],
    acceptance: {model: correlated, levels: [{accept: %s, off_path: 0.6},
      {accept_if_agreed: %s, accept_if_differed: 0.6}]}}""",
}


def scenario(folder: Path, policy: str, exit_4: float = 0.6, concurrency: int = 1) -> LoadedScenario:
    """One policy's scenario: `policy` is the text of a policy."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{abs(hash((policy, exit_4, concurrency)))}.yaml"
    path.write_text(SCENARIO.format(policy=policy, exit_4=exit_4, concurrency=concurrency))
    return load_scenario(path)


class SmallSweep:
    """An autoregressive policy, an early exit at several draft lengths, and a hierarchy, with their table."""

    def __init__(self, folder: Path, exit_4: float = 0.6, agreed: tuple[float, float] = (0.7, 0.9)) -> None:
        self._loaded: dict[str, LoadedScenario] = {
            "ar": scenario(folder, POLICIES["autoregressive"], exit_4),
            "h": scenario(folder, POLICIES["hispec"] % agreed, exit_4),
        }
        rows = [row("ar", 100.0), row("h", 120.0, (4, 0), (8, 2), (32, 4), bonus="on_mismatch")]
        for length in (1, 2, 3):
            self._loaded[f"e{length}"] = scenario(folder, POLICIES["early exit"] % length, exit_4)
            rows.append(row(f"e{length}", 110.0 + length, (4, 0), (32, length)))
        self.table = pd.DataFrame(rows)

    def scenario(self, row: Mapping[str, Any]) -> LoadedScenario:
        """As a sweep's results have it."""
        return self._loaded[row["point"]]


def command(*arguments: str) -> str:
    """What a command prints; it must succeed."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output
