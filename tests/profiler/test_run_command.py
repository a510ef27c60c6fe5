"""`hispec profile run` and `check` on a tiny real network: the file, resuming, and what is refused."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hispec_sim.cli.main import main
from hispec_sim.errors import InputError
from hispec_sim.latency import NetworkCost, read_profile, write_profile
from hispec_sim.models.cache import CachedNetwork
from hispec_sim.models.exits import BlockHead, LmHead, attach
from hispec_sim.models.files.exit_files import save_heads
from hispec_sim.models.files.safetensors_folder import save_folder
from hispec_sim.profiler import checks, latency, measure, moments, selfcheck
from hispec_sim.profiler.bench import clock_for, draft_rows, open_bench
from hispec_sim.profiler.forwards import PLACES, Bench, Kind, Point, What, behind_verifications, of_drafts, rows_of
from hispec_sim.profiler.latency import with_notes
from hispec_sim.profiler.machine import check_same_machine
from hispec_sim.profiler.plan import Grid

sys.path.append(str(Path(__file__).parents[1] / "execute"))
from tiny_networks import networks

LETTERS = "abcdefghijklmnopqrstuvwx"
OPTIONS = ["--batch", "1,2", "--contexts", "8,80", "--allow-noise", "--budget", "90s", "--clock", "processor"]


@pytest.fixture(scope="module", autouse=True)
def few_rounds() -> Iterator[None]:
    """Three rounds make a profile, however wide its points, and every moment is quiet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "ROUNDS", 3)
        patch.setattr(measure, "WIDE", math.inf)
        patch.setattr(Grid, "refinements", lambda grid: [])
        patch.setattr(selfcheck, "PROMPTS", 1)
        patch.setattr(selfcheck, "PASSES", 1)
        patch.setattr(moments, "LEARN", 1)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny target with a block head at exit 2, a tokenizer of one letter a token, and prompts."""
    folder = tmp_path_factory.mktemp("model") / "big"
    network = networks()["big"]
    save_folder(network, folder)
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    save_heads(folder / "exit_heads", network, {2: BlockHead(network.config)})
    words = ("cab", "dad", "fed", "bee", "hag", "ace", "bad", "cafe")
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": word}) for word in words))
    return folder


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["profile", *arguments])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out + captured.err


@pytest.fixture(scope="module")
def profile(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "tiny.csv"
    with pytest.raises(SystemExit) as exit_:
        main(["profile", "run", "--model", str(model), *OPTIONS, "--check", "--quiet", "1e9", "--out", str(out)])
    assert not exit_.value.code
    return out


def test_a_profile_of_a_real_network(profile):
    made = read_profile(profile)
    ops = {table.op for table in made.tables}
    assert {"layer", "layer_prefill", "forward", "embedding", "lm_head", "host", "choose", "exit_head_2"} <= ops
    assert {"repeat_2", "host_2", "choose_2"} <= ops
    assert not {"repeat_1", "host_1", "choose_1"} & ops, "who trained a layer for exit 2 does not draft at exit 1"
    facts = made.provenance.machine
    assert {"processor", "threads", "weights_sha256", "exit_heads_sha256", "commit", "noise", "linearity"} <= set(facts)
    assert "allowed" in facts["noise"]
    assert facts["moments"].startswith("quiet up to 1e+09; ")
    assert " --check --allow-noise --quiet 1e+09 " in made.provenance.command
    assert all(row.repeats is not None and row.repeats >= 3 for row in made.rows if row.origin == "measured")
    assert not latency.unfinished_path(profile).exists()
    cost = NetworkCost(made, tensor_parallel=1)
    ask = {"first_layer": 0, "batch": 2, "tokens": 4, "logits": 4, "context": [5, 30, 80]}
    assert (cost.forward_ms(last_layer=4, **ask) > cost.forward_ms(last_layer=2, **ask | {"logits": 0})).all()


@pytest.mark.parametrize(
    ("heads", "exits", "drafting"),
    [
        ((), (), (1, 2)),
        ((BlockHead, 2), (), (2,)),
        ((BlockHead, 2), (1, 2), (1, 2)),
        ((BlockHead, 2), (1,), (1, 2)),
        ((LmHead, 2), (), (1, 2)),
    ],
)
def test_drafts_are_timed_where_they_are_made(heads, exits, drafting):
    """At the exits with trained layers, and what is asked for beside them; without such at exits of all depths."""
    network = networks()["big"]
    if heads:
        kind, exit_layer = heads
        attach(network, {exit_layer: kind(network.config)})
    grid = latency.grid_for(network, batches=(1,), contexts=(), exits=exits, shortlists=())
    assert grid.drafting == drafting
    assert {e.layer for e in grid.episodes() if e.kind is Kind.DRAFTS} == set(drafting)


def test_a_checked_profile_keeps_what_its_decodes_were_off_by(profile):
    provenance = read_profile(profile).provenance
    assert re.fullmatch(r"24 forwards: median .*; 4 decodes: median .* off", provenance.machine["check"])
    assert provenance.decode_error is not None
    assert 0 < provenance.decode_error < 10
    errors = [checks.Check("decodes", "", ms, 10.0) for ms in (10.3, 9.6)]
    forward = checks.Check("forwards", "", 90.0, 10.0)
    assert checks.decode_error([*errors, forward]) == pytest.approx(math.hypot(0.03, 0.04) / math.sqrt(2))


def test_a_check_compares_and_says_whether_goals_are_met(profile, model, capsys):
    arguments = ["check", str(profile), "--model", str(model), "--clock", "processor"]
    status, printed = run([*arguments, "--prompts", str(model / "prompts.jsonl")], capsys)
    assert status == 0, printed
    assert "forwards" in printed
    assert "decodes" in printed
    assert "met" in printed or "MISSED" in printed


@pytest.mark.parametrize(
    ("key", "value"),
    [("processor", "Another 9000"), ("instructions", "AVX9"), ("threads", "64"), ("weights_sha256", "0" * 64)],
)
def test_a_profile_of_another_machine_is_refused_unless_asked(profile, model, tmp_path, capsys, key, value):
    other = write_profile(with_notes(read_profile(profile), {key: value}), tmp_path / "other.csv")
    arguments = ["check", str(other), "--model", str(model), "--clock", "processor"]
    arguments += ["--prompts", str(model / "prompts.jsonl")]
    status, printed = run(arguments, capsys)
    assert status == 2
    assert f"{key} is " in printed
    assert value in " ".join(printed.split())
    if key == "processor":
        status, printed = run([*arguments, "--other-device"], capsys)
        assert status == 0, printed


def test_a_profile_older_than_a_condition_is_believed(profile):
    measured = read_profile(profile)
    machine = {key: value for key, value in measured.provenance.machine.items() if key != "instructions"}
    here = {**machine, "dtype": measured.provenance.dtype, "instructions": "AVX9"}
    older = replace(measured, provenance=replace(measured.provenance, machine=machine))
    check_same_machine(older, here)
    with pytest.raises(InputError, match="instructions is AVX9 here"):
        check_same_machine(measured, here)


@pytest.mark.parametrize(
    ("key", "value", "cure"),
    [("threads", "2", "; give --threads 1, measure"), ("dtype", "bfloat16", "; give --dtype fp32, measure")],
)
def test_an_option_that_differs_is_named(profile, key, value, cure):
    measured = read_profile(profile)
    here = {key: {**measured.provenance.machine, "dtype": measured.provenance.dtype}[key]}
    check_same_machine(measured, here)
    with pytest.raises(InputError, match=cure):
        check_same_machine(measured, {key: value}, options=("threads", "dtype"))
    with pytest.raises(InputError, match="; measure one here"):
        check_same_machine(measured, {key: value}, options=())


@pytest.mark.parametrize(
    ("measured", "given", "counts"),
    [
        ("processor", [], "processor"),
        ("wall", [], "wall"),
        ("cuda events", [], "wall"),
        ("processor", ["wall"], "wall"),
    ],
)
def test_a_check_has_the_clock_of_the_profile(profile, model, tmp_path, capsys, monkeypatch, measured, given, counts):
    told = write_profile(with_notes(read_profile(profile), {"clock": measured}), tmp_path / "told.csv")
    clocks = []
    monkeypatch.setattr(selfcheck, "check_profile", lambda *_, clock, **others: clocks.append(clock) or [])
    options = [word for clock in given for word in ("--clock", clock)]
    status, printed = run(["check", str(told), "--model", str(model), *options], capsys)
    assert status == 0, printed
    assert clocks == [counts]


@pytest.mark.parametrize(("length", "rows"), [(1, 14), (2, 10), (8, 4)])
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_of_drafts_are_whole_whatever_the_target_thinks(batch, length, rows):
    """All rows of a decode but the first and the last count, all sequences side by side, and what catches up behind."""
    caches = CachedNetwork(networks()["big"], slots=batch, max_tokens=96, exits=[2])
    tokens = (rows + 2) * (length + 1)
    record = draft_rows(caches, 2, length, batch, clock_for(networks()["big"], "wall"), 0, 16, tokens)
    found = Counter((p.what, p.query_tokens, p.logits) for p, _ in of_drafts(record, batch, 2, 32))
    places = [place for place in PLACES if place <= length]
    drafts = {(what, nth, int(what is What.REPEAT)): rows for what in (What.REPEAT, What.DRAFTED) for nth in places}
    assert found == drafts | {(What.REPEAT, length + 1, 0): rows, (What.CAUGHT_UP, 1, 0): rows}
    behind = Counter(p for p, _ in behind_verifications(record, networks()["big"].config.shape.n_layers))
    assert behind == {Point(What.READ, batch, length + 1): rows}
    assert max(f.reach for f in record.device) == 16 + tokens - 1


def test_rows_of_large_networks_are_few():
    """Or verifications of a second would make a profile of many minutes."""
    assert [rows_of(length, 5.0) for length in (1, 2, 4, 8)] == [16, 12, 8, 6]
    assert [rows_of(length, 10.0) for length in (1, 2, 4, 8)] == [9, 9, 8, 6]
    assert [rows_of(length, 500.0) for length in (1, 2, 4, 8)] == [3, 3, 3, 3]


def test_ctrl_c_and_resume(model, tmp_path, capsys, monkeypatch):
    out = tmp_path / "tiny.csv"
    played = iter(range(90))
    whole = Bench.play

    def interrupted(self, episode):
        if next(played, None) is None:
            raise KeyboardInterrupt
        return whole(self, episode)

    monkeypatch.setattr(Bench, "play", interrupted)
    arguments = ["run", "--model", str(model), *OPTIONS, "--out", str(out)]
    status, printed = run(arguments, capsys)
    assert status == 130
    assert "--resume goes on" in " ".join(printed.split())
    monkeypatch.undo()
    status, printed = run(arguments, capsys)
    assert status == 2
    assert "is an unfinished measurement: go on with --resume" in " ".join(printed.split())
    status, printed = run([*arguments, "--resume", "--threads", "2"], capsys)
    assert status == 2
    assert "was begun with threads 1, not 2" in " ".join(printed.split())
    unfinished = latency.unfinished_path(out)
    begun = unfinished.read_text()
    for key, value in (("processor", "Another 9000"), ("weights_sha256", "0" * 64), ("torch", "1.0")):
        state = json.loads(begun)
        here, state["settings"]["conditions"][key] = state["settings"]["conditions"][key], value
        unfinished.write_text(json.dumps(state))
        status, printed = run([*arguments, "--resume"], capsys)
        assert status == 2
        assert f"was begun with {key} {value}, not {here}: go on with the same, or " in " ".join(printed.split())
    state = json.loads(begun)
    del state["settings"]["conditions"]
    unfinished.write_text(json.dumps(state))
    status, printed = run([*arguments, "--resume"], capsys)
    assert status == 2
    assert "does not tell which machine it was begun on" in " ".join(printed.split())
    unfinished.write_text(begun)
    arguments.remove("--allow-noise")
    status, printed = run([*arguments, "--resume"], capsys)
    assert status == 0, printed
    provenance = read_profile(out).provenance
    assert provenance.command.startswith("hispec profile run --model")
    assert " --allow-noise " in provenance.command, "what was measured before may be noisy"
    assert provenance.machine["noise"].startswith("allowed; ")
    status, printed = run(arguments, capsys)
    assert status == 2
    assert "exists already; nothing was measured" in " ".join(printed.split())


def test_more_shortlists_than_free_exits_are_refused():
    """Of the exits at 1, 2 and 3 two have drafts."""
    network = networks()["big"]
    attach(network, {})
    grid = latency.grid_for(network, batches=(1,), contexts=(8,), exits=(), shortlists=(2, 3))
    with pytest.raises(InputError, match=r"--shortlists: at most 1 can be timed .* got 2; give fewer"):
        open_bench(network, grid, clock_for(network, "wall"), (1,), 0)
    open_bench(network, replace(grid, shortlists=(2,)), clock_for(network, "wall"), (1,), 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--batch", "1,x"], "--batch must be whole numbers"),
        (["--batch", ""], "--batch needs at least one number"),
        (["--contexts", "8,4000"], "--contexts: network big has 160 positions, not 4000"),
        (["--contexts", "1"], "--contexts must be of at least 2 tokens, a cached one and a new one, got 1"),
        (["--contexts", "1,80"], "--contexts must be of at least 2 tokens"),
        (
            ["--contexts", "8,64", "--check"],
            "a check decodes 64 tokens behind a prompt, and contexts end at 64: measure",
        ),
        (["--exits", "9"], "--exits: network big has exits at layers 1 to 3"),
        (["--shortlists", "4"], "--shortlists: network big comes without a ranking"),
        (["--clock", "sun"], "--clock must be one of wall, processor"),
        (["--clock", "processor", "--threads", "2"], "--clock processor counts one thread"),
        (["--budget", "soon"], "--budget must be a time"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(model, tmp_path, capsys, changed, message):
    import torch

    threads = torch.get_num_threads()
    status, printed = run(["run", "--model", str(model), "--out", str(tmp_path / "x.csv"), *changed], capsys)
    torch.set_num_threads(threads)
    assert status == 2
    assert message in " ".join(printed.split())
