"""`hispec decode` on a tiny model in a folder: what it prints, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_networks import networks
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import Decoder as TokenDecoder
from tokenizers.pre_tokenizers import PreTokenizer

from hispec_sim.cascade import Bonus, Level
from hispec_sim.cli.decode import build_cascade
from hispec_sim.cli.main import main
from hispec_sim.errors import InputError
from hispec_sim.execute import generate as generating
from hispec_sim.execute.choosing import Token
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.generate import Generation, Settings, generate, generate_with
from hispec_sim.models.exits import AdapterHead
from hispec_sim.models.files.exit_files import save_heads
from hispec_sim.models.files.safetensors_folder import save_folder

LETTERS = "abcdefghijklmnopqrstuvwx"


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny target and draft as folders, with a tokenizer of one letter a token."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tokenizer_of(LETTERS)
    for name, network in networks().items():
        save_folder(network, folder / name)
        tokenizer.save(str(folder / name / "tokenizer.json"))
    return folder


def tokenizer_of(pieces: Sequence[str], cut: PreTokenizer | None = None, join: TokenDecoder | None = None) -> Tokenizer:
    """These are the tokens, and what is none of them is the first."""
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=pieces[0]))
    tokenizer.pre_tokenizer = cut or pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = join or decoders.Fuse()
    return tokenizer


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


@pytest.mark.parametrize("form", ["\t{}\a\b\v\f[b]\r", "[/{}]\N{REPLACEMENT CHARACTER}"])
def test_the_text_is_printed_as_it_is(
    models_folder: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tabs, control characters and what looks like markup, of the prompt, in the text, and behind a character that is
    never completed."""
    plain = run(["--model", str(models_folder / "big"), "--prompt", "caab", "--max-new-tokens", "24"], capsys)[1]
    pieces = [*LETTERS[:3], *map(form.format, LETTERS[3:])]
    shutil.copytree(models_folder / "big", tmp_path / "big")
    tokenizer_of(pieces).save(str(tmp_path / "big" / "tokenizer.json"))
    text = "c\t[b" + "".join(pieces[LETTERS.index(letter)] for letter in plain.splitlines()[0][4:])
    assert form.split("{}")[1] in text
    status, printed = run(
        ["--model", str(tmp_path / "big"), "--prompt", "c\t[b", "--max-new-tokens", "24", "--exits", "2"], capsys
    )
    assert status == 0, printed
    assert printed.startswith(f"{text}\n24 tokens in")


def test_the_space_behind_the_prompt_is_kept(
    models_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where tokens begin with their space, and decoding strips that of a text's first."""
    plain = run(["--model", str(models_folder / "big"), "--prompt", "cab", "--max-new-tokens", "8"], capsys)[1]
    shutil.copytree(models_folder / "big", tmp_path / "big")
    spaced = tokenizer_of([f"▁{letter}" for letter in LETTERS], pre_tokenizers.Metaspace(), decoders.Metaspace())
    spaced.save(str(tmp_path / "big" / "tokenizer.json"))
    _, printed = run(["--model", str(tmp_path / "big"), "--prompt", "c a b", "--max-new-tokens", "8"], capsys)
    assert printed.splitlines()[0] == " ".join(plain.splitlines()[0])


def test_colours_tell_the_level(
    models_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal: that of each level below the target, and the default one for what the target chose itself."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLORTERM": "", "NO_COLOR": ""}.items():
        monkeypatch.setenv(name, value)
    chosen: list[Token] = []
    cascade = build_cascade({"target": 4}, "1,2", 2, [3], Bonus.ALWAYS)
    generate(
        cascade, {"target": networks()["big"]}, [2, 0, 1], Settings(40), lambda index, tokens: chosen.extend(tokens)
    )
    assert {token.level for token in chosen} == {0, 1, 2}
    codes = (36, 33, 39)  # cyan, yellow, default
    text = "".join(f"\x1b[{codes[token.level]}m{LETTERS[token.token_id]}\x1b[0m" for token in chosen)
    base = ["--model", str(models_folder / "big"), "--prompt", "cab", "--max-new-tokens", "40"]
    _, printed = run(
        [*base, "--exits", "1,2", "--draft-length", "2", "--verify-period", "3", "--bonus", "always"], capsys
    )
    assert printed.startswith(f"\x1b[2mcab\x1b[0m{text}\n")


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


def test_first_runs_are_not_compared(
    models_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are slower, of the cascade and of the target alone."""
    levels: list[int] = []

    def timed(decoder: Decoder, *how: object) -> Generation:
        generation = generate_with(decoder, *how)  # type: ignore[arg-type]
        n = len(decoder.cascade.levels)
        generation.record.wall_ms = 20.0 / n if n in levels else 1000.0
        levels.append(n)
        return generation

    monkeypatch.setattr(generating, "generate_with", timed)
    base = ["--model", str(models_folder / "big"), "--prompt", "cab", "--max-new-tokens", "12", "--exits", "2"]
    _, printed = run([*base, "--compare", "2"], capsys)
    assert levels == [2, 1, 1, 2, 1, 2]
    assert "2.00x autoregressive decoding (median of 2 interleaved rounds, 2.00 to 2.00)" in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--exits", "0"], "'0' must be a layer from 1 to 3"),
        (["--exits", "4"], "'4' must be a layer from 1 to 3"),
        (["--exits", "two"], "'two' must be a layer"),
        (["--exits", "²"], "'²' must be a layer from 1 to 3"),
        (["--exits", "2,1"], "must grow"),
        (["--exits", "1", "--verify-period", "3"], "2 levels take 0 --verify-period"),
        (["--prompt-file", "x"], "either --prompt or --prompt-file"),
        (["--temperature", "0.5", "--top-p", "2"], "top_p"),
        (["--top-p", "0"], "top_p must be above 0 and at most 1, got 0.0"),
        (["--temperature", "1e-38"], "temperature must be 0, which decodes greedily, or from 1e-06 on, got 1e-38"),
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
