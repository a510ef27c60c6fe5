"""`hispec trace record` on tiny models in folders: the file, its provenance, Ctrl-C, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hispec_sim.acceptance.trace_file import load_trace
from hispec_sim.cli.main import main
from hispec_sim.models.exits import AdapterHead
from hispec_sim.models.files.exit_files import save_heads
from hispec_sim.models.files.safetensors_folder import save_folder
from hispec_sim.profiler import record as recording

sys.path.append(str(Path(__file__).parents[1] / "execute"))
from tiny_networks import networks

LETTERS = "abcdefghijklmnopqrstuvwx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny target and draft as folders, with a tokenizer of one letter a token, and five prompts."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    for name, network in networks().items():
        save_folder(network, folder / name)
        tokenizer.save(str(folder / name / "tokenizer.json"))
    lines = [json.dumps({"prompt": word}) for word in ("cab", "dad", "fed", "bee", "hag")]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    return folder


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["trace", "record", *arguments])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out + captured.err


def test_a_recording_and_its_provenance(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All exits of both networks; cut off by Ctrl-C and resumed, it is the same but for its date and name."""
    base = ["--model", str(folder / "big"), "--draft-model", str(folder / "draft"), "--prompts"]
    base += [str(folder / "prompts.jsonl"), "--split", "all", "--max-new-tokens", "10", "--batch", "2", "--places", "2"]
    status, printed = run([*base, "--out", str(tmp_path / "a")], capsys)
    assert status == 0, printed
    assert "4/5 prompts" in printed
    trace = load_trace(tmp_path / "a")
    assert [str(exit_) for exit_ in trace.exits] == ["draft@2", "big@1", "big@2", "big@3", "big@4"]
    assert [(prompt.group, prompt.tokens) for prompt in trace.prompts][:2] == [("cab", 3), ("dad", 3)]
    assert {"command", "date", "device", "dtype", "software", "weights_sha256", "seed"} <= set(trace.provenance)
    assert set(trace.provenance["weights_sha256"]) == {"big", "draft"}
    real, calls = recording.record_batch, []

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(recording, "record_batch", interrupted)
    status, printed = run([*base, "--out", str(tmp_path / "b")], capsys)
    assert status == 130
    assert "--resume" in printed
    status, printed = run([*base, "--out", str(tmp_path / "b")], capsys)
    assert (status, "--resume" in printed) == (2, True)
    settings = recording.parts_folder(tmp_path / "b") / recording.SETTINGS
    begun = settings.read_text()
    settings.write_text(json.dumps({key: value for key, value in json.loads(begun).items() if key != "places"}))
    status, printed = run(["--resume", "--out", str(tmp_path / "b")], capsys)
    assert (status, "it lacks places" in " ".join(printed.split())) == (2, True)
    settings.write_text(begun)
    status, printed = run(["--resume", "--out", str(tmp_path / "b")], capsys)
    assert status == 0, printed
    again = load_trace(tmp_path / "b")
    for name in ("labels", "starts"):
        assert (getattr(again, name) == getattr(trace, name)).all()
    assert (again.off_path.rows == trace.off_path.rows).all()
    assert again.prompts == trace.prompts


def test_prompts_that_are_too_long(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused by name with the cure, which leaves them out and says so."""
    positions = networks()["big"].config.max_positions
    lines = [json.dumps({"prompt": word}) for word in ("cab", "a" * positions, "bee")]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    base = ["--model", str(folder / "big"), "--prompts", str(tmp_path / "prompts.jsonl"), "--split", "all"]
    base += ["--max-new-tokens", "4", "--out", str(tmp_path / "a")]
    status, printed = run(base, capsys)
    assert status == 2
    assert "--skip-long" in printed
    status, printed = run([*base, "--skip-long"], capsys)
    assert status == 0, printed
    assert "1 prompts left out" in printed
    trace = load_trace(tmp_path / "a")
    assert [prompt.tokens for prompt in trace.prompts] == [3, 3]
    assert "--skip-long" in trace.provenance["command"]


def test_heads_are_named_in_the_provenance(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that come with a model are read through unless `none` is said, and change what is recorded."""
    shutil.copytree(folder / "big", tmp_path / "big")
    head = AdapterHead(networks()["big"].config)
    torch.nn.init.normal_(head.linear.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    save_heads(tmp_path / "big" / "exit_heads", networks()["big"], {1: head})
    base = ["--model", str(tmp_path / "big"), "--prompts", str(folder / "prompts.jsonl"), "--split", "all"]
    traces = {}
    for name, more in (("own", []), ("none", ["--exit-heads", "none"])):
        status, printed = run([*base, "--max-new-tokens", "10", *more, "--out", str(tmp_path / name)], capsys)
        assert status == 0, printed
        traces[name] = load_trace(tmp_path / name)
    assert set(traces["own"].provenance["weights_sha256"]) == {"big", "exit heads of big"}
    assert set(traces["none"].provenance["weights_sha256"]) == {"big"}
    labels = [traces[name].labels for name in ("own", "none")]
    assert (labels[0][:, 0] != labels[1][:, 0]).any()
    assert ((labels[0][:, 1:] == 0) == (labels[1][:, 1:] == 0)).all(), "other exits are read as before"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "needs --model"),
        (["--model", "big", "--exits", "x"], "--exits must be layers"),
        (["--model", "big", "--exits", "9"], "big has layers 1 to 4, not 9"),
        (["--model", "big", "--split", "third"], "--split must be one of"),
        (["--model", "big", "--draft-model", "big"], "have one name"),
        (["--model", "big", "--max-new-tokens", "400"], "more than the 160 positions"),
        (["--model", "big", "--exits", "1,2", "--middles", "3"], "--middles 3: only exits that are read"),
        (["--model", "big", "--temperature", "1e-38"], "temperature must be 0"),
        (["--resume"], "no unfinished recording"),
    ],
)
def test_what_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    """One sentence, status 2, and no folder left behind that a second try would stumble over."""
    arguments = [str(folder / word) if word == "big" else word for word in more]
    prompts = ["--prompts", str(folder / "prompts.jsonl"), *([] if "--split" in more else ["--split", "all"])]
    status, printed = run([*arguments, *prompts, "--out", str(tmp_path / "t")], capsys)
    assert status == 2
    assert words in printed
    assert list(tmp_path.iterdir()) == []
