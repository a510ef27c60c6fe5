"""On a core install, commands that need more say so, and all others run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hispec_sim.cli.main import EXTRAS, main

ROOT = Path(__file__).parents[1]
CORE_ONLY = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {set(EXTRAS)!r}:
            raise ModuleNotFoundError(name=name)
import importlib.util
importlib.util.find_spec = lambda name: None if name in {set(EXTRAS)!r} else True
sys.meta_path.insert(0, Missing())
from hispec_sim.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "arguments", [["decode", "--model", "x", "--prompt", "y"], ["train", "evaluate", "."]], ids=lambda words: words[0]
)
def test_the_extra_is_named(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, status 2."""
    for name in [name for name in sys.modules if name.startswith(("hispec_sim.execute", "hispec_sim.models"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == 'error: this command needs torch: pip install "hispec-sim[models]"\n'


def test_every_package_of_an_extra_is_known() -> None:
    """What is missing is named with its extra, whichever of an extra's packages it is."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needed = {
        requirement for extra in ("torch", "models", "sweep", "cluster", "report") for requirement in extras[extra]
    }
    assert {re.split(r"[^\w-]", requirement)[0] for requirement in needed} - {"hispec-sim"} <= set(EXTRAS)


@pytest.mark.parametrize(
    "arguments",
    [["run", "scenarios/quick.yaml"], ["check", "paper", "--only", "leviathan", "--tokens", "100"]],
    ids=lambda words: words[0],
)
def test_the_core_runs_without_any_extra(arguments: list[str], tmp_path: Path) -> None:
    """In a process of its own, where no package of an extra can be imported."""
    out = tmp_path / "out"
    words = [sys.executable, "-c", CORE_ONLY, *arguments, "--out", str(out)]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert any(out.iterdir())
