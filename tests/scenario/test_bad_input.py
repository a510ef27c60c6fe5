"""Every wrong input: one paragraph that names the place and the cure, status 2, no traceback, nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Prompt
from hispec_sim.acceptance.trace_file import save_trace
from hispec_sim.cli.main import main
from hispec_sim.networks import NetworkSpec, known_networks
from hispec_sim.scenario.build import load_profiles
from hispec_sim.scenario.load import load_scenario

REPOSITORY = Path(__file__).parents[2]
PROFILE = REPOSITORY / "profiles/h100_sxm/llama-3.1-8b.csv"

GOOD = """\
name: small
repetitions: 2
parameters:
  confirm: {value: 0.7, source: "assumed: for this test", range: [0.6, 0.8]}
networks:
  big: {profile: big.csv, tensor_parallel: 1}
workload: {requests: 1, prompt_tokens: 512, output_tokens: 16}
policies:
  - name: ar
    levels: [{network: big}]
  - name: hi
    bonus: always
    levels:
      - {network: big, exit_layer: 4, draft_length: 2}
      - {network: big, exit_layer: 8}
      - {network: big, verify_period: 4}
    acceptance:
      model: correlated
      levels:
        - {accept: $confirm, off_path: 0.5}
        - {accept_if_agreed: 0.9, accept_if_differed: 0.6}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the good scenario and its profile."""
    (tmp_path / "good.yaml").write_text(GOOD)
    shutil.copy(PROFILE, tmp_path / "big.csv")
    return tmp_path


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and everything printed of `hispec ...`."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out + captured.err


def assert_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], *expected: str, extra: tuple[str, ...] = ()
) -> None:
    """The scenario `bad.yaml` is refused with a paragraph that says all of `expected`."""
    before = sorted(folder.iterdir())
    status, printed = run(["run", str(folder / "bad.yaml"), "--out", str(folder / "out"), *extra], capsys)
    assert status == 2, printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) == 1, printed
    for words in expected:
        assert words in printed, printed
    assert sorted(folder.iterdir()) == before


def test_the_good_scenario_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every case below differs from this one in a single place."""
    status, printed = run(["run", str(folder / "good.yaml"), "--out", str(folder / "out")], capsys)
    assert status == 0, printed
    assert (folder / "out/summary.json").exists()


@pytest.mark.parametrize(
    ("device", "line"),
    [("h100_sxm", ""), ("l40s", "device: {allow_mixed_devices: true}\n")],
    ids=["one device", "several, asked for"],
)
def test_networks_of_one_device_or_as_asked(folder: Path, device: str, line: str) -> None:
    """A profile and a roofline of the same device go together; of several devices they do where that is said."""
    small = f"networks:\n  small: {{roofline: {{network: llama-3.2-1b, device: {device}}}}}\n"
    (folder / "two.yaml").write_text(GOOD.replace("networks:\n", line + small))
    assert {profile.device for profile in load_profiles(load_scenario(folder / "two.yaml")).values()} == {
        "h100_sxm",
        device,
    }


# Each case: what is replaced in the good scenario, by what, and what the message must say.
REPLACED = [
    ("name: small\n", "", ["name", "required"]),
    ("name: small", "name: 3", ["line 1", "name", "string", "3"]),
    ("name: small", "name: ''", ["line 1", "name"]),
    ("name: small", "nmae: small", ["nmae", "did you mean 'name'"]),
    ("repetitions: 2", "repetitions: 0", ["line 2", "repetitions", "greater than or equal to 1", "0"]),
    ("repetitions: 2", "repetitions: -3", ["line 2", "-3"]),
    ("repetitions: 2", "repetitions: many", ["line 2", "'many'", "integer"]),
    ("repetitions: 2", "repetitions: 2.5", ["line 2", "2.5"]),
    ("repetitions: 2", "repetitions: true", ["line 2", "True"]),
    ("repetitions: 2", "repetitions: [2]", ["line 2", "a list of 1"]),
    ("repetitions: 2", "repetitions: 99999999", ["line 2", "10000"]),
    ("repetitions: 2", "repetition: 2", ["unknown key", "did you mean 'repetitions'"]),
    ("repetitions: 2", "repetitions: 2\nrepetitions: 3", ["twice", "repetitions"]),
    ("repetitions: 2", "seed: -1", ["seed", "-1"]),
    ("value: 0.7,", "value: .nan,", ["parameters.confirm.value", "finite", "nan"]),
    ("value: 0.7,", "value: .inf,", ["parameters.confirm", "inf"]),
    ("value: 0.7,", "value: '0.7',", ["parameters.confirm.value", "number"]),
    ("value: 0.7,", "value: 1e-3,", ["parameters.confirm.value", "1e-3", "plain number"]),
    ("value: 0.7,", "value: 0.9,", ["range", "0.9"]),
    ("value: 0.7,", "", ["parameters.confirm.value", "required"]),
    (', range: [0.6, 0.8]}', "}", ["assumed", "range"]),
    ("range: [0.6, 0.8]", "range: [0.6]", ["range", "at least 2"]),
    ("range: [0.6, 0.8]", "range: [0.8, 0.6]", ["range", "contain"]),
    ('source: "assumed: for this test", ', "", ["source", "required"]),
    ("$confirm", "$confrim", ["line 20", "$confrim", "did you mean 'confirm'"]),
    ("$confirm", "$", ["not among the parameters"]),
    ("$confirm", "1.2", ["line 20", "accept", "less than or equal to 1", "1.2"]),
    ("$confirm", "-0.1", ["line 20", "greater than or equal to 0", "-0.1"]),
    ("$confirm", ".nan", ["line 20", "nan"]),
    ("accept: $confirm, ", "", ["line 20", "give `accept`"]),
    (", off_path: 0.5", "", ["line 20", "off_path"]),
    ("accept_if_differed: 0.6", "accept_if_diferred: 0.6", ["did you mean 'accept_if_differed'"]),
    (", accept_if_differed: 0.6", "", ["line 21", "accept_if_differed"]),
    ("accept_if_agreed: 0.9, accept_if_differed: 0.6", "accept: 0.9", ["line 21", "accept_if_agreed"]),
    ("        - {accept_if_agreed: 0.9, accept_if_differed: 0.6}\n", "", ["one entry per verifying level: 2, not 1"]),
    ("model: correlated", "model: corelated", ["model", "correlated"]),
    ("      model: correlated\n", "", ["model", "independent, per_position, correlated, chain or trace"]),
    ("      model: correlated\n", "      model: correlated\n      clustering: 1.0\n", ["clustering", "less than 1"]),
    ("      model: correlated\n", "      model: independent\n", ["acceptance"]),
    ("big.csv", "small.csv", ["line 6", "small.csv"]),
    ("{profile: big.csv, tensor_parallel: 1}", "{tensor_parallel: 1}", ["line 6", "profile", "roofline"]),
    ("{profile: big.csv, tensor_parallel: 1}", "{}", ["line 6", "profile", "roofline"]),
    ("tensor_parallel: 1}", "tensor_parallel: 3}", ["line 6", "tensor_parallel 3", "it has 1"]),
    ("tensor_parallel: 1}", "tensor_parallel: 0}", ["line 6", "tensor_parallel"]),
    ("profile: big.csv", "roofline: {network: big, device: h100_sxm}", ["line 6", "no known network 'big'"]),
    ("profile: big.csv", "roofline: {network: llama-3.1-8b, device: h1000}", ["line 6", "did you mean 'h100_sxm'"]),
    ("networks:\n  big: {profile: big.csv, tensor_parallel: 1}", "networks: {}", ["networks", "at least 1"]),
    ("networks:\n", "networks:\n  small: {roofline: {network: llama-3.2-1b, device: l40s}}\n",
     ["line 5", "networks", "small on l40s, big on h100_sxm", "device.allow_mixed_devices"]),
    ("networks:", "networks: []\nnets:", ["networks"]),
    ("requests: 1", "requests: 0", ["line 7", "workload.requests"]),
    ("prompt_tokens: 512", "prompt_tokens: -512", ["line 7", "-512"]),
    ("prompt_tokens: 512", "prompt_tokens: 900000", ["line 7", "context", "outside the profiled range", "32768"]),
    ("output_tokens: 16", "output_tokens: 16, grouping: fast", ["grouping", "run_now"]),
    ("output_tokens: 16", "output_tokens: 16, concurrency: 0", ["concurrency", "0"]),
    ("output_tokens: 16}", "output_tokens: 16}\ndevice: {all_reduce: rccl}", ["all_reduce", "custom", "rccl"]),
    ("output_tokens: 16}", "output_tokens: 16}\ndevice: {host: {per_layer_ms: -1}}", ["per_layer_ms", "-1"]),
    ("output_tokens: 16}", "output_tokens: 16}\ndevice: {host: {per_layr_ms: 1}}", ["did you mean 'per_layer_ms'"]),
    ("output_tokens: 16}", "output_tokens: 16}\ndevice: {jitter: {p10: 1.2, p90: 1.1}}", ["p10"]),
    ("output_tokens: 16}", "output_tokens: 16}\nwall: {draft: small}", ["wall.draft", "'small' is not among"]),
    ("exit_layer: 8}", "exit_layer: 33}", ["line 15", "32 layers", "33"]),
    ("exit_layer: 8}", "exit_layer: 4}", ["line 13", "must grow", "above 4"]),
    ("exit_layer: 8}", "exit_layer: 3}", ["must grow"]),
    ("exit_layer: 8}", "exit_layer: 0}", ["line 15", "exit_layer"]),
    ("exit_layer: 8}", "exit_layer: 8, verify_period: 2}", ["line 15", "verify_period belongs to level 2"]),
    ("exit_layer: 8}", "exit_layer: 8, draft_length: 2}", ["line 15", "only level 0"]),
    ("draft_length: 2", "draft_length: 2, shortlist: 0", ["line 14", "shortlist", "0"]),
    ("draft_length: 2", "draft_length: 2, shortlist: 128257", ["line 14", "128256 tokens", "128257"]),
    ("verify_period: 4", "verify_period: 4, shortlist: 4096", ["line 13", "the target", "4096"]),
    ("levels: [{network: big}]", "levels: [{network: big, shortlist: 9}]", ["line 10", "the target", "9"]),
    ("{network: big, verify_period: 4}", "{network: big, exit_layer: 16, verify_period: 4}", ["line 16", "the target"]),
    ("verify_period: 4", "verify_period: 0", ["line 16", "verify_period", "0"]),
    (", verify_period: 4", "", ["line 16", "needs `verify_period`"]),
    ("draft_length: 2", "draft_length: 0", ["line 14", "draft_length", "0"]),
    (", draft_length: 2", "", ["line 14", "needs `draft_length`"]),
    ("{network: big, verify_period: 4}", "{network: bigg, verify_period: 4}", ["line 16", "did you mean 'big'"]),
    ("bonus: always", "bonus: sometimes", ["line 12", "on_mismatch", "sometimes"]),
    ("name: hi", "name: ar", ["two policies are named 'ar'"]),
    ("    levels: [{network: big}]\n", "    levels: []\n", ["line 10", "at least 1"]),
    ("    levels: [{network: big}]\n", "", ["levels", "required"]),
    ("  - name: ar\n    levels: [{network: big}]\n", "", ["exactly one policy must be autoregressive"]),
    ("levels: [{network: big}]", "levels: [{network: big}]\n    acceptance: {model: independent, accept: [0.5]}",
     ["autoregressive", "remove `acceptance`"]),
    ("levels: [{network: big}]", "levels: [{network: big, draft_length: 1}]", ["draft_length"]),
    ("policies:\n", "policies: {}\nmore:\n", ["policies"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), REPLACED, ids=lambda value: None)
def test_wrong_scenarios(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, expected: list[str]
) -> None:
    """One wrong place each."""
    assert GOOD.count(old) == 1, "the case must change exactly one place"
    (folder / "bad.yaml").write_text(GOOD.replace(old, new))
    assert_refused(folder, capsys, "bad.yaml", *expected)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
WHOLE_FILES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["empty"]),
    "only a comment": (b"# nothing\n", ["empty"]),
    "a list": (b"- name: x\n", ["mapping", "a list"]),
    "a word": (b"hello\n", ["mapping", "'hello'"]),
    "a number": (b"7\n", ["mapping", "7"]),
    "broken syntax": (b"name: [1, 2\nseed: 3\n", ["not valid YAML", "line"]),
    "a tab": (b"name: x\nworkload:\n\trequests: 1\n", ["not valid YAML", "line 3"]),
    "two documents": (b"name: a\n---\nname: b\n", ["not valid YAML"]),
    "python object": (b"name: !!python/object/apply:os.system ['echo hi']\n", ["plain value"]),
    "unknown tag": (b"name: !secret x\n", ["plain value"]),
    "aliases that grow": (BOMB.encode(), ["alias"]),
    "alias to itself": (b"a: &a [*a]\n", ["alias"]),
    "deep nesting": (b"a: " + b"[" * 60 + b"]" * 60, ["nested deeper"]),
    "very deep nesting": (b"a: " + b"[" * 50_000 + b"]" * 50_000, ["nested deeper"]),
    "binary": (bytes(range(128, 256)), ["UTF-8"]),
    "nul bytes": (b"name: a\x00b\n", ["not valid YAML"]),
    "too large": (b"#" * 1_000_001, ["1,000,001 bytes"]),
    "a list as key": (b"? [a, b]\n: c\n", ["key"]),
    "impossible date": (b"name: 2026-13-45\n", ["name"]),
}


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_wrong_files(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    """Files that are no scenario at all."""
    content, expected = WHOLE_FILES[case]
    (folder / "bad.yaml").write_bytes(content)
    assert_refused(folder, capsys, "bad.yaml", *expected)


def damage_empty(text: str) -> str:
    return ""


def damage_truncated(text: str) -> str:
    return text[: len(text) * 2 // 3]


def damage_header(text: str) -> str:
    return text.replace("hispec-latency-profile", "some-other-format")


def damage_version(text: str) -> str:
    return text.replace("hispec-latency-profile 1", "hispec-latency-profile 99")


def damage_value(text: str) -> str:
    lines = text.splitlines(keepends=True)
    lines[-1] = lines[-1].replace(lines[-1].split(",")[5], "nan")
    return "".join(lines)


@pytest.mark.parametrize(
    "damage", [damage_empty, damage_truncated, damage_header, damage_version, damage_value], ids=lambda f: f.__name__
)
def test_wrong_profiles(folder: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[str], str]) -> None:
    """A damaged profile is named together with the line of the scenario that asks for it."""
    (folder / "big.csv").write_text(damage(PROFILE.read_text()))
    (folder / "bad.yaml").write_text(GOOD)
    assert_refused(folder, capsys, "bad.yaml", "line 6", "big.csv")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("workload.concurrency=-1", ["--set workload.concurrency=-1", "-1"]),
        ("workload.concurrency", ["key=value"]),
        ("=3", ["key=value"]),
        ("work.concurrency=3", ["no 'work' here", "did you mean 'workload'"]),
        ("policies.hispec.bonus=always", ["no 'hispec' here", "ar, hi"]),
        ("policies.9.bonus=always", ["no '9' here"]),
        ("policies.hi.levels.0.draft_length=x", ["'x'", "integer"]),
        ("workload.concurency=2", ["did you mean 'concurrency'"]),
        ("name.first=x", ["no 'first' here"]),
        ("workload=[", ["not a valid value"]),
    ],
)
def test_wrong_assignments(
    folder: Path, capsys: pytest.CaptureFixture[str], assignment: str, expected: list[str]
) -> None:
    """--set is checked like the file, and the message quotes it."""
    (folder / "bad.yaml").write_text(GOOD)
    assert_refused(folder, capsys, *expected, extra=("--set", assignment))


TRACED = GOOD[: GOOD.index("    acceptance:")] + "    acceptance: {model: trace, trace: t.npz}\n"


LLAMA = known_networks()["llama-3.1-8b"]
OTHER = NetworkSpec("other", 16, 64, 4, 2, 16, 96, 100)


def write_trace(path: Path, layers: list[int], *, wrong: int = 0, networks: tuple[NetworkSpec, ...] = (LLAMA,)) -> None:
    exits = tuple(Exit(LLAMA.name, layer) for layer in layers if LLAMA in networks)
    exits += tuple(Exit(OTHER.name, layer) for layer in (4, 8, 16) if OTHER in networks)
    labels = np.zeros((20, len(exits)), np.uint8)
    labels[3, :-1] = wrong
    prompt, off_path = Prompt("a", "a", "0" * 64, 3), OffPath.none(len(exits), sampled=False)
    save_trace(AgreementTrace(networks, exits, labels, np.array([0, 20]), (prompt,), off_path, None, {}), path)


@pytest.mark.parametrize(
    "case",
    ["missing", "not a zip", "truncated", "lacks an exit", "another target", "another model", "no off-path"],
)
def test_wrong_traces(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    """Agreement traces that cannot serve the cascade."""
    path = folder / "t.npz"
    expected = ["line 17"]
    if case == "missing":
        expected.append("no agreement trace")
    elif case == "not a zip":
        path.write_text("hello")
        expected.append("damaged")
    elif case == "truncated":
        write_trace(path, [4, 8, 32])
        path.write_bytes(path.read_bytes()[:200])
        expected.append("damaged")
    elif case == "lacks an exit":
        write_trace(path, [4, 16, 32])
        expected.append("no exit llama-3.1-8b@8; of llama-3.1-8b it has layers 4, 16, 32")
    elif case == "another target":
        write_trace(path, [4, 8, 32], networks=(LLAMA, OTHER))
        expected.append("recorded on the target other@16")
    elif case == "another model":
        write_trace(path, [], networks=(OTHER,))
        expected.append("the trace is of another model: network big is llama-3.1-8b (32 layers")
    else:
        write_trace(path, [4, 8, 32], wrong=1)
        expected.append("no text behind wrong tokens of llama-3.1-8b@8")
    text = TRACED.replace(
        'parameters:\n  confirm: {value: 0.7, source: "assumed: for this test", range: [0.6, 0.8]}\n', ""
    )
    (folder / "bad.yaml").write_text(text.replace("repetitions: 2\n", "repetitions: 2\n# traced\n# traced\n"))
    assert_refused(folder, capsys, *expected)


def test_a_trace_is_enough_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`acceptance: {trace: FILE}` runs, on the networks of the same shape."""
    write_trace(folder / "t.npz", [4, 8, 32])
    text = TRACED.replace("{model: trace, trace: t.npz}", "{trace: t.npz}")
    text = text.replace(
        'parameters:\n  confirm: {value: 0.7, source: "assumed: for this test", range: [0.6, 0.8]}\n', ""
    )
    (folder / "traced.yaml").write_text(text)
    status, printed = run(["run", str(folder / "traced.yaml"), "--out", str(folder / "results")], capsys)
    assert status == 0, printed


def test_places_that_cannot_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results never replace anything unasked, and the refusal comes before any work."""
    good = str(folder / "good.yaml")
    (folder / "file").write_text("mine")
    status, printed = run(["run", good, "--out", str(folder / "file")], capsys)
    assert status == 2
    assert "is a file" in printed
    (folder / "full").mkdir()
    (folder / "full/notes.txt").write_text("mine")
    status, printed = run(["run", good, "--out", str(folder / "full")], capsys)
    assert status == 2
    assert "--force" in printed
    assert [path.name for path in (folder / "full").iterdir()] == ["notes.txt"]
    status, printed = run(["run", good, "--out", str(folder / "full"), "--force"], capsys)
    assert status == 0, printed
    assert (folder / "full/notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "a", "b"], ["run", "--sed", "1"], ["frobnicate"], ["run", "x.yaml", "--seed", "-1"]]
)
def test_wrong_command_lines(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors: status 2 and no traceback."""
    status, printed = run(arguments, capsys)
    assert status == 2
    assert "Traceback" not in printed


@pytest.mark.parametrize("path", ["no/such.yaml", "scenarios", "scenarios/70b_3c.yaml"])
def test_missing_files(path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing scenario names its neighbour."""
    monkeypatch.chdir(REPOSITORY)
    status, printed = run(["run", path], capsys)
    assert status == 2
    assert len(printed.strip().splitlines()) == 1
    if path.endswith("3c.yaml"):
        assert "did you mean '70b_3b.yaml'" in printed


def test_help_teaches() -> None:
    """`hispec run --help` shows an example of --set."""
    from hispec_sim.cli.main import app

    result = CliRunner().invoke(app, ["run", "--help"], terminal_width=100)
    assert result.exit_code == 0
    assert "KEY=VALUE" in result.output
