"""A small sweep, made once by the command, and its recommendation."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_made import command

BASE = Path(__file__).parents[2] / "scenarios/hispec_llama3_8b.yaml"
SWEEP = f"""
name: small
base: {BASE}
repetitions: 2
axes:
  draft_exit: [3, 4]
  intermediate_exit: [8, 12]
  draft_length: [2, 3]
  verify_period: [4, 6]
  workload.concurrency: [1, 4]
networks:
  llama-3-8b:
    exit_curve:
      shape: codellama-34b
      through: [{{exit_layer: 3, accept: $exit_3}}, {{exit_layer: 8, accept: $exit_8}}]
workload: {{requests: 4, prompt_tokens: 512, output_tokens: 32}}
policies:
  - {{name: autoregressive, levels: [{{network: llama-3-8b}}]}}
  - name: early exit
    levels: [{{network: llama-3-8b, exit_layer: $draft_exit, draft_length: $draft_length}}, {{network: llama-3-8b}}]
    acceptance: {{model: chain}}
  - name: hispec
    levels:
      - {{network: llama-3-8b, exit_layer: $draft_exit, draft_length: $draft_length}}
      - {{network: llama-3-8b, exit_layer: $intermediate_exit}}
      - {{network: llama-3-8b, verify_period: $verify_period}}
    acceptance: {{model: chain}}
"""


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep without a recommendation."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "small.yaml").write_text(SWEEP)
    command("sweep", str(folder / "small.yaml"), "--out", str(folder / "out"), "--workers", "1")
    return folder / "out"


@pytest.fixture(scope="session")
def recommended(swept: Path) -> tuple[Path, str]:
    """The folder with its recommendation, and what the command printed."""
    printed = command("recommend", str(swept), "--where", "workload.concurrency == 1", "--repetitions", "3")
    return swept, printed
