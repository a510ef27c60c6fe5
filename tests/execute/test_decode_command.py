"""`hispec decode` on a tiny model in a folder: what it prints, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny_networks import networks
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hispec_sim.cascade import Bonus, Level
from hispec_sim.cli.decode import build_cascade
from hispec_sim.cli.main import main
from hispec_sim.errors import InputError
from hispec_sim.models.exits import AdapterHead
from hispec_sim.models.files.exit_files import save_heads
from hispec_sim.models.files.safetensors_folder import save_folder

LETTERS = "abcdefghijklmnopqrstuvwx"


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny target and draft as folders, with a tokenizer of one letter a token."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    for name, network in networks().items():
        save_folder(network, folder / name)
        tokenizer.save(str(folder / name / "tokenizer.json"))
    return folder


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["decode", *arguments])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out + captured.err


def test_every_cascade_prints_the_same_text(models_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The autoregressive text, whatever decodes it, and a line of figures."""
    base = ["--model", str(models_folder / "big"), "--prompt", "cab", "--max-new-tokens", "24"]
    texts = set()
    for more in ([], ["--exits", "1,2", "--draft-length", "2"], ["--draft-model", str(models_folder / "draft")]):
        status, printed = run([*base, *more], capsys)
        assert status == 0, printed
        text, figures = printed.strip().splitlines()
        texts.add(text)
        assert "24 tokens in" in figures
        assert "tokens per target pass" in figures
        assert ("matched per drafted" in figures) == bool(more)
    assert len(texts) == 1
    assert next(iter(texts)).startswith("cab")
    assert len(next(iter(texts))) == 27


def test_a_shortlist_of_a_text(models_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Drafts are cut to the letters of the text that are most frequent, and what is decoded stays the same."""
    (tmp_path / "letters.txt").write_text("hhhhddu")
    base = ["--model", str(models_folder / "big"), "--prompt", "cab", "--max-new-tokens", "24"]
    plain = run(base, capsys)[1].splitlines()[0]
    shares = []
    for more in (["--exits", "2"], ["--draft-model", str(models_folder / "draft")]):
        for size in ("1", "24"):
            short = ["--shortlist", size, "--shortlist-text", str(tmp_path / "letters.txt")]
            status, printed = run([*base, *more, *short], capsys)
            assert status == 0, printed
            assert printed.splitlines()[0] == plain
            shares.append(float(printed.split("matched per drafted ")[1].split(",")[0]))
        assert shares[-2] < shares[-1], "a draft of one letter matches less"


def test_heads_that_come_with_a_model(models_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are read through; an exit without one is refused, with the cures; the text stays the target's own."""
    shutil.copytree(models_folder / "big", tmp_path / "big")
    head = AdapterHead(networks()["big"].config)
    torch.nn.init.normal_(head.linear.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    save_heads(tmp_path / "big" / "exit_heads", networks()["big"], {1: head})
    base = ["--model", str(tmp_path / "big"), "--prompt", "cab", "--max-new-tokens", "24"]
    shown = {}
    for heads in ([], ["--exit-heads", "none"], ["--exit-heads", str(tmp_path / "big" / "exit_heads")]):
        status, printed = run([*base, "--exits", "1", *heads], capsys)
        assert status == 0, printed
        text, figures = printed.strip().splitlines()
        shown[tuple(heads[1:])] = text, figures.split("matched per drafted ")[1].split(",")[0]
    assert len({text for text, _ in shown.values()}) == 1
    matched = [matched for _, matched in shown.values()]
    assert matched[0] == matched[2] != matched[1]
    status, printed = run([*base, "--exits", "1,2"], capsys)
    assert status == 2
    assert "has trained heads for exits 1, none for 2" in printed
    status, printed = run([*base, "--exits", "1,2", "--exit-heads", str(tmp_path / "big" / "exit_heads")], capsys)
    assert status == 0, printed
    assert run([*base, "--exits", "1,2", "--exit-heads", "none"], capsys)[0] == 0


def test_compare_and_sampling(models_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Interleaved rounds say that the text is the same; one seed gives one text; bf16 is not called lossless."""
    base = ["--model", str(models_folder / "big"), "--prompt", "cab", "--max-new-tokens", "12", "--exits", "2"]
    _, printed = run([*base, "--compare", "2"], capsys)
    assert "x autoregressive decoding (median of 2 interleaved rounds" in printed
    assert printed.strip().endswith("the text is the same")
    sampled = [
        run([*base, "--temperature", "0.9", "--seed", seed], capsys)[1].splitlines()[0] for seed in ("1", "1", "2")
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    _, printed = run([*base, "--dtype", "bf16"], capsys)
    assert "bfloat16 rounds differently" in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--exits", "0"], "'0' must be a layer from 1 to 3"),
        (["--exits", "4"], "'4' must be a layer from 1 to 3"),
        (["--exits", "two"], "'two' must be a layer"),
        (["--exits", "2,1"], "must grow"),
        (["--exits", "1", "--verify-period", "3"], "2 levels take 0 --verify-period"),
        (["--prompt-file", "x"], "either --prompt or --prompt-file"),
        (["--temperature", "0.5", "--top-p", "2"], "top_p"),
        (["--max-new-tokens", "1000"], "160 positions"),
        (["--draft-model", "nowhere"], "nowhere"),
        (["--shortlist", "4"], "the target alone has none: give --exits or --draft-model"),
        (["--exits", "1", "--shortlist", "4"], "have the tokens of a text counted with --shortlist-text"),
        (["--exits", "1", "--shortlist-text", "x"], "give its length with --shortlist too"),
        (
            ["--exits", "1", "--shortlist", "4", "--shortlist-text", "nowhere"],
            "--shortlist-text nowhere cannot be read",
        ),
    ],
)
def test_wrong_requests(
    models_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    """One paragraph, status 2."""
    status, printed = run(["--model", str(models_folder / "big"), "--prompt", "cab", *arguments], capsys)
    assert status == 2
    assert expected in printed
    assert "Traceback" not in printed


def test_cascades_of_the_command_line() -> None:
    """Draft network first, then exits, then the target; periods in that order."""
    depths = {"target": 30, "draft": 6}
    cascade = build_cascade(depths, "4,8", 3, [5, 7], Bonus.ALWAYS)
    assert cascade.levels == (
        Level("draft", 6), Level("target", 4, 3), Level("target", 8, 5), Level("target", 30, 7),
    )  # fmt: skip
    short = build_cascade(depths, "4", 3, [5], Bonus.ALWAYS, 512)
    assert [level.shortlist for level in short.levels] == [512, None, None]
    assert build_cascade({"target": 30}, "", 3, [], Bonus.ALWAYS).levels == (Level("target", 30),)
    with pytest.raises(InputError, match="4 levels take 2"):
        build_cascade(depths, "4,8", 3, [5], Bonus.ALWAYS)
