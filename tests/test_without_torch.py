"""On a core install, commands that need torch say so."""

from __future__ import annotations

import sys

import pytest

from hispec_sim.cli.main import main


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
