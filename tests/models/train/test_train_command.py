"""The command line, and the model that comes out of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from tiny_run import CORPUS, tiny_recipe
from typer.testing import CliRunner

from hispec_sim.cli.train import train_app
from hispec_sim.errors import InputError
from hispec_sim.models.files.safetensors_folder import load_folder
from hispec_sim.models.files.tokenizer import load_tokenizer
from hispec_sim.models.train import corpus, evaluate, recipe
from hispec_sim.models.train.export import default_pairs, trained_network

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

PLAN = evaluate.Plan


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference run, only tiny."""
    monkeypatch.setattr(corpus, "package_corpus", lambda: CORPUS)
    small = {"prompts": 3, "prompt_tokens": 8, "new_tokens": 4}
    monkeypatch.setattr(evaluate, "Plan", lambda **asked: PLAN(**(small | asked)))
    monkeypatch.setattr(recipe, "Recipe", lambda steps, seed: tiny_recipe(steps, seed=seed))


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(train_app, arguments)
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit | typer.Exit), result.exception
    return result.exit_code, result.output


@pytest.mark.usefixtures("tiny")
def test_from_nothing_to_a_model_that_loads(tmp_path: Path) -> None:
    """Train, look, export; the folder is read by the ordinary loaders and is the network that was trained."""
    out = tmp_path / "run"
    command = ("reference", "--out", str(out), "--no-compile", "--no-bf16")
    status, output = run(*command, "--steps", "4")
    assert status == 0
    assert "Agreement with all 6 layers" in output
    status, output = run(
        "evaluate", str(out), "--prompts", "3", "--new-tokens", "4", "--pair", "1,3", "--export", "--prompt-tokens", "8"
    )
    assert status == 0
    assert "Agreement with all 6 layers" in output
    assert "1, 3" in output
    network, steps = trained_network(out)
    assert steps == 4
    loaded = load_folder(out / "model")
    tokens = torch.tensor([load_tokenizer(out / "model").encode("def area_1(width")])
    torch.testing.assert_close(loaded(tokens), network(tokens), rtol=1e-4, atol=1e-4)
    card = (out / "model" / "README.md").read_text()
    assert json.loads((out / "model" / "token_ranking.json").read_text())["tokens"] == len(
        np.load(out / "training.npy")
    )
    assert "lines 1.0" in card
    assert "| 1, 3 |" in card
    numbers = json.loads((out / "model" / "evaluation.json").read_text())
    assert numbers["steps"] == 4
    assert numbers["evaluation"]["exits"][0]["exit_layer"] == 1
    with pytest.raises(InputError, match="already holds a training run"):
        run(*command)
    assert run("reference", "--out", str(out), "--resume")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reference", "--out", "here", "--budget", "long"), "--budget must be a time"),
        (("reference", "--out", "here", "--resume"), r"holds no run\.json"),
        (("evaluate", "here"), r"holds no run\.json"),
        (("evaluate", "here", "--pair", "1-8"), "--pair must be two exit layers"),
        (("evaluate", "here", "--temperature", "0"), "temperature must be above 0"),
    ],
)
def test_wrong_arguments_say_what_is_right(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_pairs_that_suit() -> None:
    """Cheap drafts, middle exits at an eighth to a third of the depth."""
    assert default_pairs([1, 2, 4, 6, 8, 12, 16], 40) == [(1, 6), (1, 8), (1, 12), (2, 6), (2, 8), (2, 12)]
