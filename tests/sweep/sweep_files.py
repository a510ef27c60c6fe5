"""A small sweep file for the tests, over the shipped quick scenario."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hispec_sim.sweep.evaluation import Choice
from hispec_sim.sweep.load import load_sweep
from hispec_sim.sweep.run import Outcome, Run
from hispec_sim.sweep.runners.local import local_runner
from hispec_sim.sweep.space import Space

SCENARIOS = Path(__file__).parents[2] / "scenarios"
AXES = """
  exit_4: [0.4, 0.6]
  workload.concurrency: [1, 2]
  nd: {from: 1, to: 3}
  ni: [2, 4]
"""
CONSTRAINTS = "[nd <= ni]"


def text(axes: str = AXES, constraints: str = CONSTRAINTS, output_tokens: int = 16) -> str:
    """A sweep of three policies; 2 + 12 + 20 points with the default axes and constraint."""
    return f"""
name: small
base: {SCENARIOS / "quick.yaml"}
repetitions: 2
axes: {axes}
constraints: {constraints}
workload: {{requests: 2, output_tokens: {output_tokens}}}
verify: {{leading: 3, random: 3}}
policies:
  - name: autoregressive
    levels: [{{network: llama-3.1-8b}}]
  - name: early exit
    bonus: always
    levels:
      - {{network: llama-3.1-8b, exit_layer: 4, draft_length: $nd}}
      - {{network: llama-3.1-8b}}
    acceptance: {{model: independent, accept: [$exit_4]}}
  - name: hispec
    levels:
      - {{network: llama-3.1-8b, exit_layer: 4, draft_length: $nd}}
      - {{network: llama-3.1-8b, exit_layer: 8}}
      - {{network: llama-3.1-8b, verify_period: $ni}}
    acceptance: {{model: independent, accept: [$exit_4, 0.9]}}
"""


def space(folder: Path, content: str | None = None) -> Space:
    """The space of a sweep file written to `folder`."""
    path = folder / "small.yaml"
    path.write_text(text() if content is None else content)
    return Space(load_sweep(path))


@contextmanager
def silent(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """No progress."""
    yield lambda more: None


def sweep(over: Space, folder: Path, workers: int = 1, choice: Choice = "auto", search: int | None = None) -> Outcome:
    """Run a sweep into `folder`."""
    with local_runner(over.sweep, workers) as runner:
        run = Run(over, folder, runner, choice, "a test", silent)
        return run.all_points() if search is None else run.search(search)
