"""`hispec validate` refuses what would prove nothing, before it decodes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from measured import reference

from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Prompt
from hispec_sim.acceptance.trace_file import save_trace
from hispec_sim.cli.main import main
from hispec_sim.latency.profile_file import read_profile, write_profile
from hispec_sim.profiler import moments
from hispec_sim.profiler.moments import QuietMoments
from hispec_sim.profiler.prompts import Split, Text, prompt_set, sha256
from hispec_sim.validate import decoding, prediction
from hispec_sim.validate.decoding import in_turn, observe

DESIGN = "prompts: 1\nconfigurations:\n  - {exits: [[2]], max_new_tokens: [4]}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A design, a profile, and a trace of one text of a group that is held out."""
    made = tmp_path_factory.mktemp("inputs")
    (made / "design.yaml").write_text(DESIGN)
    model, profile = reference()
    write_profile(profile, made / "profile.csv")
    shape = model.network.config.shape
    held_out = in_turn(prompt_set("reference", Split.HELD_OUT))[0].group
    for name, group in (("seen", held_out), ("apart", "elsewhere"), ("other", "elsewhere")):
        exits = (Exit(shape.name, 2), Exit(shape.name, shape.n_layers))
        labels, starts = np.zeros((8, 2), np.uint8), np.array([0, 4, 8])
        prompts = (Prompt("a", group, "", 4), Prompt("b", group, "", 4))
        none = OffPath.none(2, sampled=False)
        save_trace(AgreementTrace((shape,), exits, labels, starts, prompts, none, None, {}), made / f"{name}.trace")
    return made


def validate(folder: Path, trace: str, out: Path, *more: str, design: str = "design.yaml") -> int:
    arguments = ["validate", "--model", "reference", "--profile", str(folder / "profile.csv"), "--repeats", "1"]
    arguments += ["--trace", str(folder / trace), "--design", str(folder / design), "--out", str(out), *more]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_quiet_moments_are_waited_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was disturbed is run again; where it was quiet never, a sentence says what to do."""
    monkeypatch.setattr(moments, "LEARN", 1)
    monkeypatch.setattr(moments, "PATIENCE_S", 0.0)
    runs: list[int] = []
    monkeypatch.setattr(decoding, "observe", lambda *given: runs.append(1) or observe(*given))
    verdicts = iter([False, True, False, True, True])
    monkeypatch.setattr(QuietMoments, "_quiet", lambda self: next(verdicts))
    assert validate(folder, "apart.trace", tmp_path / "never", "--quiet", "1.5") == 2
    assert "no quiet moment on this machine in 0 s" in capsys.readouterr().err
    monkeypatch.setattr(moments, "PATIENCE_S", 600.0)
    assert validate(folder, "apart.trace", tmp_path / "out", "--quiet", "1.5", "--repetitions", "3") == 0
    assert len(runs) == 2
    assert next(verdicts, None) is None
    assert validate(folder, "apart.trace", tmp_path / "out", "--resume") == 2
    assert "was begun with another quiet" in capsys.readouterr().err


def test_from_nothing_to_a_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files and tables; the page loads nothing; a second start is refused, and going on runs nothing again."""
    out = tmp_path / "out"
    assert validate(folder, "apart.trace", out, "--repetitions", "3") == 0
    printed = capsys.readouterr().out
    assert "Error budget" in printed
    assert "largest part of the error" in printed
    page = (out / "report.html").read_text()
    assert "ex2_nd1_on_mismatch_b1_t4" in page
    assert (out / "results.csv").read_text().startswith("configuration,")
    assert (out / "forwards.csv").read_text().startswith("first_layer,last_layer,batch,tokens,logits,forwards,real_ms,")
    run = next((out / "runs").iterdir())
    before = run.stat().st_mtime_ns
    assert validate(folder, "apart.trace", out) == 2
    assert "is not empty" in capsys.readouterr().err
    assert validate(folder, "other.trace", out, "--resume", "--repetitions", "3") == 0
    assert run.stat().st_mtime_ns == before
    assert "other.trace" in (out / "report.html").read_text(), "what was decoded is compared with any prediction"
    (folder / "changed.yaml").write_text(DESIGN.replace("[2]", "[3]"))
    assert validate(folder, "apart.trace", out, "--resume", design="changed.yaml") == 2
    assert "was begun with another design" in capsys.readouterr().err


def test_comparing_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a campaign with another trace: nothing is decoded; where nothing was, a sentence and no folder."""
    (folder / "half.yaml").write_text(DESIGN.replace("[[2]]", "[[2]], draft_length: [1, 2]"))
    out, wanted = tmp_path / "out", ("--repetitions", "3", "--no-decode")
    assert validate(folder, "apart.trace", out, *wanted, design="half.yaml") == 2
    assert f"--no-decode: no run is finished in {out}" in capsys.readouterr().err.replace("\n", "")
    assert not out.exists()
    assert validate(folder, "apart.trace", out, "--repetitions", "3", design="half.yaml") == 0
    for run in (out / "runs").glob("ex2_nd2_*"):
        run.unlink()
    (out / "overall.json").unlink()
    monkeypatch.setattr(decoding, "observe", lambda *_: pytest.fail("decoded"))
    assert validate(folder, "other.trace", out, *wanted, design="half.yaml") == 0
    assert [row.split(",")[0] for row in (out / "results.csv").read_text().splitlines()[1:]] == [
        "ex2_nd1_on_mismatch_b1_t4"
    ]
    assert json.loads((out / "overall.json").read_text())["configurations"] == 1
    assert "other.trace" in (out / "report.html").read_text()
    capsys.readouterr()
    (out / "prompts.json").unlink()
    assert validate(folder, "other.trace", out, *wanted, design="half.yaml") == 2
    assert "prompts.json is missing" in capsys.readouterr().err
    assert validate(folder, "other.trace", out, *wanted, "--threads", "2", design="half.yaml") == 2
    assert "--no-decode: " in (told := capsys.readouterr().err)
    assert "was begun with another threads" in told


def test_a_profile_of_another_machine(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused unless asked for, before anything is decoded; finished runs are compared with the machine that
    decoded them, wherever that is done."""
    profile = read_profile(folder / "profile.csv")
    machine = {**profile.provenance.machine, "processor": "Another 9000"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("apart.trace", "design.yaml"):
        shutil.copy(folder / name, elsewhere)
    provenance = replace(profile.provenance, machine=machine)
    write_profile(replace(profile, provenance=provenance), elsewhere / "profile.csv")
    out, few = tmp_path / "out", ("--repetitions", "3")
    assert validate(elsewhere, "apart.trace", out) == 2
    assert "processor is " in (told := " ".join(capsys.readouterr().err.split()))
    assert "was Another 9000" in told
    assert not out.exists()
    assert validate(elsewhere, "apart.trace", out, "--other-device", *few) == 0
    assert validate(elsewhere, "apart.trace", out, "--no-decode", *few) == 2
    settings = json.loads((out / "validation.json").read_text())
    settings["machine"]["processor"] = "Another 9000"
    (out / "validation.json").write_text(json.dumps(settings))
    assert validate(elsewhere, "apart.trace", out, "--no-decode", *few) == 0
    before = {key: value for key, value in settings.items() if key != "machine"}
    (out / "validation.json").write_text(json.dumps(before))
    assert validate(elsewhere, "apart.trace", out, "--no-decode", *few) == 0, "of before machines were written down"
    (out / "validation.json").write_text(json.dumps(settings))
    capsys.readouterr()
    assert validate(elsewhere, "apart.trace", out, "--resume", "--other-device", *few) == 2
    assert "was begun with another machine" in capsys.readouterr().err


def test_a_profile_that_is_measured_meanwhile(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turns the profile is read when decoding is done; if it is not there by then, decoding was not in vain."""
    profile = (folder / "profile.csv").read_bytes()
    inputs, few = tmp_path / "inputs", ("--repetitions", "3")
    inputs.mkdir()
    for name in ("apart.trace", "design.yaml"):
        shutil.copy(folder / name, inputs)
    assert validate(inputs, "apart.trace", tmp_path / "a", *few) == 2, "alone nobody else measures it"
    turns = (*few, "--turns", str(tmp_path / "turns"))
    capsys.readouterr()
    assert validate(inputs, "apart.trace", tmp_path / "b", *turns) == 0
    assert "compare with --no-decode" in capsys.readouterr().out
    observe = decoding.observe

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "observe", interrupted)
    assert validate(inputs, "apart.trace", tmp_path / "d", *turns) == 130
    assert "go on with --resume" in capsys.readouterr().out

    def written_meanwhile(*arguments: Any) -> Any:
        (inputs / "profile.csv").write_bytes(profile)
        return observe(*arguments)

    monkeypatch.setattr(decoding, "observe", written_meanwhile)
    assert validate(inputs, "apart.trace", tmp_path / "c", *turns) == 0
    assert "Error budget" in capsys.readouterr().out
    assert validate(inputs, "apart.trace", tmp_path / "b", "--no-decode", *few) == 0


def test_two_sets_of_prompts_with_a_trace_each(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are decoded in turn, and a request replays the trace of its own set."""
    (folder / "two.yaml").write_text(DESIGN.replace("prompts: 1", "prompts: 4\nblocks: 2"))
    drawn: list[list[int]] = []
    resampled, even = prediction.drawn, prediction.evenly_drawn

    def seen(*arguments: Any) -> list[int]:
        drawn.append(resampled(*arguments))
        return drawn[-1]

    def seen_even(*arguments: Any) -> list[list[int]]:
        drawn.extend(runs := even(*arguments))
        return runs

    monkeypatch.setattr(prediction, "drawn", seen)
    monkeypatch.setattr(prediction, "evenly_drawn", seen_even)
    sets = ("--prompts", "reference,prose", "--trace", str(folder / "other.trace"), "--repetitions", "3")
    assert validate(folder, "apart.trace", tmp_path / "a", *sets, design="two.yaml") == 0
    assert drawn
    assert all([sequence // 2 for sequence in each] == [0, 1, 0, 1] for each in drawn), "two sequences a trace"
    hashes = json.loads((tmp_path / "a" / "prompts.json").read_text())
    held_out = {name: sha256([t.text for t in prompt_set(name, Split.HELD_OUT)]) for name in ("reference", "prose")}
    assert [sha in held_out["prose"] for sha in hashes] == [False, True, False, True]
    assert len(list((tmp_path / "a" / "runs").glob("*.p003.json"))) == 1, "four prompts, one at a time"
    capsys.readouterr()
    assert validate(folder, "apart.trace", tmp_path / "b", *sets, "--limit", "3", design="two.yaml") == 2
    assert "not shared out among evenly" in capsys.readouterr().err
    assert validate(folder, "apart.trace", tmp_path / "b", *sets[2:], "--limit", "2", design="two.yaml") == 2
    assert "given 2 times for the 1 sets" in capsys.readouterr().err


def test_a_stopped_campaign_compares_the_same_prompts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two blocks of a prompt, one configuration stopped in the second: both are compared on the first, for what follows
    is other prompts; with none in common a sentence says so."""
    (folder / "stopped.yaml").write_text(
        DESIGN.replace("prompts: 1", "prompts: 2\nblocks: 2").replace("[[2]]", "[[2]], draft_length: [1, 2]")
    )
    out, few = tmp_path / "out", ("--repetitions", "3")
    assert validate(folder, "apart.trace", out, *few, design="stopped.yaml") == 0
    (out / "runs" / "ex2_nd2_on_mismatch_b1_t4.r000.p001.json").unlink()
    assert validate(folder, "apart.trace", out, *few, "--no-decode", design="stopped.yaml") == 0
    assert set(pd.read_csv(out / "results.csv")["blocks"]) == {1}
    forwards = pd.read_csv(out / "forwards.csv")
    assert "do not rank them" not in capsys.readouterr().out
    for run in (out / "runs").glob("*.p001.json"):
        run.unlink()
    assert validate(folder, "apart.trace", out, *few, "--no-decode", design="stopped.yaml") == 0
    pd.testing.assert_frame_equal(forwards, pd.read_csv(out / "forwards.csv"))
    (out / "runs" / "ex2_nd2_on_mismatch_b1_t4.r000.p000.json").unlink()
    assert validate(folder, "apart.trace", out, *few, "--no-decode", design="stopped.yaml") == 0
    assert "do not rank them" in " ".join(capsys.readouterr().out.split())


def test_a_trace_that_has_seen_a_prompt(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate(folder, "seen.trace", tmp_path / "out") == 2
    assert "was recorded on the prompt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_options(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate(folder, "apart.trace", tmp_path / "a", "--split", "half") == 2
    assert "--split 'half'" in capsys.readouterr().err
    assert validate(folder, "apart.trace", tmp_path / "a", "--clock", "sun") == 2
    assert "--clock 'sun'" in capsys.readouterr().err
    assert validate(folder, "apart.trace", tmp_path / "a", "--clock", "processor", "--threads", "2") == 2
    assert "times one thread" in capsys.readouterr().err
    (folder / "paired.yaml").write_text("paired: true\n" + DESIGN)
    assert validate(folder, "apart.trace", tmp_path / "b", design="paired.yaml") == 2
    assert "no recording of the prompt" in (told := " ".join(capsys.readouterr().err.split()))
    assert "record the same --prompts and --split" in told
    assert not (tmp_path / "b").exists(), "or the corrected command would find a folder that is not empty"
    (folder / "long.yaml").write_text(DESIGN.replace("[4]", "[6]"))
    assert validate(folder, "apart.trace", tmp_path / "c", design="long.yaml") == 2
    assert "no recorded text has 6 tokens (the longest has 4)" in capsys.readouterr().err


def test_groups_are_gone_round() -> None:
    """One of each group in turn, all of them once; hashes put c before b before a."""
    texts = [Text(str(n), group, "") for n, group in enumerate("aabac")]
    assert [text.name for text in in_turn(texts)] == ["4", "2", "3", "0", "1"]


def test_the_first_prompts_are_a_sample_of_the_set() -> None:
    """Tasks of HumanEval are not in random order: the first of them all begin with the same import."""
    first = in_turn([Text(str(n), f"HumanEval/{n}", "") for n in range(100)])[:20]
    numbers = [int(text.name) for text in first]
    assert sorted(n // 25 for n in numbers).count(0) in range(3, 9)
    assert 35 < sum(numbers) / 20 < 65


def test_groups_of_the_same_tasks_begin_with_different_ones() -> None:
    """Otherwise the first prompts of all topics are one task, easier or harder than what the trace was recorded on."""
    texts = [Text(f"{topic}{task}", topic, "") for task in range(3) for topic in "abcd"]
    names = [text.name for text in in_turn(texts)]
    assert names == ["d0", "c1", "b2", "a0", "d1", "c2", "b0", "a1", "d2", "c0", "b1", "a2"]
    first = in_turn(prompt_set("prose", Split.HELD_OUT))[:12]
    assert len({text.name.split("/")[1] for text in first}) == len({text.group for text in first}) == 12


def test_a_model_without_a_chat_template(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate(folder, "apart.trace", tmp_path / "out", "--chat") == 2
    assert "the model has no chat template" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
