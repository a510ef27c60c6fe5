"""The traces that ship: small, of both models, on code and on prose; each names the command that records it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from hispec_sim.acceptance.trace_file import load_trace
from hispec_sim.profiler.prompts import Split, half

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "scenarios" / "traces").glob("*.trace"))


def test_both_models_on_code_and_on_prose() -> None:
    kinds = {path.stem for path in SHIPPED}
    assert kinds >= {f"{model}_{kind}" for model in ("reference", "smollm2") for kind in ("humaneval", "prose")}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_a_shipped_trace_tells(path: Path) -> None:
    """Deeper exits agree more on the whole, prompts are of the tuning half, and the file can be recorded anew."""
    trace = load_trace(path)
    assert path.stat().st_size < 120_000
    assert f"--out {path.relative_to(ROOT).as_posix()}" in trace.provenance["command"]
    assert "--split tuning" in trace.provenance["command"]
    assert {half(prompt.group) for prompt in trace.prompts} == {Split.TUNING}
    assert all(prompt.sha256 for prompt in trace.prompts)
    agreement = (trace.labels == 0).mean(axis=0)
    assert agreement[-1] == 1
    assert agreement[0] < agreement[-2] or trace.networks[-1].name.startswith("SmolLM2")
    assert len(trace.off_path.at) > 100
