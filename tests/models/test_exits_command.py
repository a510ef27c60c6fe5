"""`hispec train exits` on a tiny model in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner, Result

from hispec_sim.cli.exits import train_exits_command
from hispec_sim.errors import InputError
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.distil.prompts import read_prompts
from hispec_sim.models.exits import Kind
from hispec_sim.models.files.exit_files import load_heads, read_card
from hispec_sim.models.files.safetensors_folder import load_folder, save_folder
from hispec_sim.models.llama import Llama
from hispec_sim.models.train.corpus import Corpus, Document
from hispec_sim.networks import NetworkSpec

LETTERS = "abcdefghijklmnopqrstuvwxyz ,."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with a tokenizer of one letter a token."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(1)
    shape = NetworkSpec("tiny", 4, 16, 2, 1, 8, 24, len(LETTERS), True)
    save_folder(Llama(LlamaConfig(shape, max_positions=64)), folder)
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def run(*arguments: object) -> Result:
    app = typer.Typer(add_completion=False)
    app.command()(train_exits_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_from_the_command_line(model: Path, tmp_path: Path) -> None:
    """Prompts of a file, progress in lines, agreement in tables, heads that load; resumed, it says the same again."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "about {a}{b}", "topic": "{a}"}}\n' for a in "abcd" for b in "xyz"))
    out = tmp_path / "run"
    done = run("--model", model, "--exits", "1,3", "--tokens", "900", "--prompts", prompts, "--out", out)
    assert done.exit_code == 0, done.exception or done.output
    assert "text: " in done.output
    assert "training: 6/" in done.output or "training: 1" in done.output
    assert "tokens/s" in done.output
    assert "without head" in done.output
    assert "By held-out topic" in done.output
    card = read_card(out / "heads")
    assert card.provenance["command"].startswith(f"hispec train exits --model {model} --exits 1,3 --kind block")
    assert set(load_heads(out / "heads", load_folder(model))) == {1, 3}
    prompts.unlink()
    again = run("--resume", "--out", out)
    assert again.exit_code == 0, again.exception
    assert again.output.split("Agreement")[1] == done.output.split("Agreement")[1]
    with pytest.raises(InputError, match="has 3 already"):
        raise run("--resume", "--passes", "3", "--out", out).exception or AssertionError
    longer = run("--resume", "--passes", "5", "--out", out)
    assert longer.exit_code == 0, longer.exception
    more = read_card(out / "heads")
    assert more.provenance["steps"] == 5 * card.provenance["steps"] // 3
    assert (
        more.provenance["command"]
        == f"{card.provenance['command']}; hispec train exits --resume --passes 5 --out {out}"
    )


def test_prompts_from_the_text_of_the_reference_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Excerpts of what it was trained on, kept with the run; heads of the third kind."""
    corpus = Corpus(
        "test", tuple(Document(f"models/{a}/m.py", f"{a} owl, " * 90) for a in "abcd"), (Document("x", ""),)
    )
    monkeypatch.setattr("hispec_sim.models.train.corpus.package_corpus", lambda: corpus)
    out = tmp_path / "run"
    done = run(
        "--model", model, "--exits", "2", "--kind", "lm_head", "--tokens", "300", "--prompts", "corpus", "--out", out
    )  # fmt: skip
    assert done.exit_code == 0, done.exception or done.output
    assert {prompt.topic for prompt in read_prompts(out / "prompts.jsonl")} == set("abcd")
    assert read_card(out / "heads").kind is Kind.LM_HEAD


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--exits", "0,2"], "different layers from 1 to 3, shallow to deep, got 0,2"),
        (["--exits", "2,4"], "from 1 to 3"),
        (["--exits", "3,1"], "shallow to deep"),
        (["--exits", "2,2"], "different layers"),
        (["--exits", "two"], "layers such as 4,8"),
        (["--exits", "2", "--kind", "mamba"], "one of adapter, block"),
        (["--exits", "2", "--budget", "soon"], "time such as 2.5h"),
        (["--exits", "2", "--budget", "0h"], "time such as 2.5h"),
        (["--exits", "2", "--prompts", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["--exits", "2", "--resume"], "no run to resume"),
        ([], "needs --model and --exits"),
    ],
)
def test_wrong_requests(model: Path, tmp_path: Path, arguments: list[str], expected: str) -> None:
    """Refused before anything is written."""
    result = run("--model", model, "--out", tmp_path / "run", *arguments)
    assert isinstance(result.exception, InputError)
    assert expected in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_left_alone(model: Path, tmp_path: Path) -> None:
    """Nothing is overwritten, and damaged settings are said to be."""
    (tmp_path / "run.json").write_text("{}")
    for arguments, expected in ((["--model", model, "--exits", "2"], "already holds"), (["--resume"], "is damaged")):
        result = run(*arguments, "--out", tmp_path)
        assert isinstance(result.exception, InputError)
        assert expected in str(result.exception)
