"""Trace files: what is written is read, and what is damaged is refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hispec_sim.acceptance import trace_statistics as statistics
from hispec_sim.acceptance.joined import join_traces
from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Prompt, Sampling
from hispec_sim.acceptance.trace_file import load_trace, save_trace
from hispec_sim.cascade import Cascade, Level
from hispec_sim.cli.main import main
from hispec_sim.errors import InputError
from hispec_sim.networks import NetworkSpec
from hispec_sim.step_graph import Kind, StepGraph

NETWORK = NetworkSpec("net", 6, 64, 4, 2, 16, 96, 100)
GOLDEN = (
    "1:2/2 1:0/2 2:0/3 1:0/2 1:1/2 2:0/3 1:0/2 1:1/2 2:0/3 1:2/2 1:0/2 2:0/3 1:2/2 1:0/2 2:0/3 1:0/2 1:2/2 2:1/3 "
    "1:0/2 1:0/2 1:1/2 2:1/4 1:0/2 1:1/2 2:0/3 1:0/2 1:1/2 2:0/3 1:0/2 1:1/2 2:0/3 1:1/2 1:1/2 2:1/4 1:1/2 1:0/2 "
    "2:2/3 1:0/2 1:1/2 2:0/3 1:2/2 1:0/2 2:0/3 1:0/2 1:1/2 2:0/3 1:2/2 1:0/2 2:0/3 1:0/2 1:1/2 2:0/3 1:2/2 1:0/2 "
    "2:0/3 1:0/2 1:1/2 2:0/3 1:0/2 1:0/2 1:0/2 2:3/3 1:0/2 1:1/2 2:0/3 1:2/2 2:0/2 1:0/1 2:1/1"
)
EXITS = (Exit("net", 2), Exit("net", 4), Exit("net", 6))


def example(*, sampled: bool = False, seed: int = 0) -> AgreementTrace:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (50, 3)).astype(np.uint8)
    labels[:, -1] = 0
    at = np.array([[0, 3, 1], [1, 4, 0]], np.int32)
    rows = rng.integers(0, 2, (2, 4, 3)).astype(np.uint8)
    rows[0, :, 1] = rows[1, :, 0] = 0
    sampling = None
    if sampled:
        sampling = Sampling(
            0.8, 0.9, -rng.random((50, 3)).astype(np.float16), rng.integers(0, 256, (50, 3)).astype(np.uint8),
            rng.integers(0, 256, (50, 1)).astype(np.uint8),
        )  # fmt: skip
        rows = -rng.random((2, 4, 3)).astype(np.float16)
    prompts = (Prompt("a", "x", "0" * 64, 3), Prompt("b", "y", "1" * 64, 4))
    starts = np.array([0, 20, 50])
    return AgreementTrace((NETWORK,), EXITS, labels, starts, prompts, OffPath(at, rows), sampling, {"date": "today"})


@pytest.mark.parametrize("sampled", [False, True])
def test_everything_comes_back(tmp_path: Path, sampled: bool) -> None:
    trace = join_traces([example(sampled=sampled), example(sampled=sampled, seed=1)], {"command": "c"})
    save_trace(trace, tmp_path / "t")
    again = load_trace(tmp_path / "t")
    assert again.starts.tolist() == [0, 20, 50, 70, 100]
    assert again.off_path.at[:, 0].tolist() == [0, 1, 2, 3]
    for field in dataclasses.fields(trace):
        ours, theirs = getattr(trace, field.name), getattr(again, field.name)
        if field.name == "off_path" or (field.name == "sampling" and sampled):
            for part in dataclasses.fields(ours):
                np.testing.assert_array_equal(getattr(ours, part.name), getattr(theirs, part.name))
        else:
            assert np.array_equal(ours, theirs) if isinstance(ours, np.ndarray) else ours == theirs
    with pytest.raises(InputError, match="exists"):
        save_trace(trace, tmp_path / "t")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sampled=st.booleans(),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
    kept=st.floats(0, 1),
)
def test_damage_is_refused_or_harmless(
    tmp_path: Path, sampled: bool, changes: list[tuple[float, int]], kept: float
) -> None:
    """Bytes changed and files cut off: an InputError that names the file, or a trace that is whole."""
    path = tmp_path / "t"
    save_trace(example(sampled=sampled), path, overwrite=True)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[int(place * len(content))] = value
    path.write_bytes(content[: int(kept * len(content)) + 1])
    try:
        trace = load_trace(path)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert trace.n_sequences == 2


def rewritten(path: Path, **changes: object) -> None:
    """The file with other entries in its header."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["header.json"] = json.dumps({**json.loads(parts["header.json"]), **changes}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, "not an agreement trace"),
        ({"version": 1}, "version 1 and this release reads 2"),
        ({"version": 99}, "version 99 and this release reads 2"),
        ({"exits": [["net", 2], ["net", 6]]}, "labels must be uint8 of shape"),
        ({"exits": [["net", 4], ["net", 2], ["net", 6]]}, "stands behind a deeper one"),
        ({"exits": [["net", 2], ["net", 4], ["net", 5]]}, "must be its network's last layer"),
        ({"exits": [["net", 2], ["other", 4], ["net", 6]]}, "is no exit of the networks net"),
        ({"exits": 3}, "its header does not fit"),
        ({"networks": [{"name": "net"}]}, "its header does not fit"),
        ({"prompts": []}, "0 prompts are named for 2 sequences"),
        ({"sampling": {"temperature": 1.0, "top_p": 1.0}}, "damaged"),
    ],
)
def test_headers_that_do_not_fit(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    save_trace(example(), tmp_path / "t")
    rewritten(tmp_path / "t", **changes)
    with pytest.raises(InputError, match=words):
        load_trace(tmp_path / "t")


def test_statistics_by_hand() -> None:
    """Two sequences of one exit that agrees (1) or not (0): 1 1 0 1 0 0 and 1 1 1 0."""
    hits = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1, 0])
    labels = np.stack([1 - hits, 1 - hits, 0 * hits], 1).astype(np.uint8)
    labels[2, 1] = 2
    prompts = (Prompt("a", "x", "0", 1), Prompt("b", "y", "1", 1))
    at, rows = np.array([[0, 2, 1], [1, 3, 1]], np.int32), np.array([[[0, 0, 255]] * 2, [[1, 0, 255]] * 2], np.uint8)
    trace = AgreementTrace((NETWORK,), EXITS, labels, np.array([0, 6, 10]), prompts, OffPath(at, rows), None, {})
    share = statistics.agreement(trace, 0)
    assert (share.value, share.count) == (0.6, 10)
    assert share.error == pytest.approx(np.sqrt(2 * (0.6**2 + 0.6**2)) / 10)  # found 3 of 6 and 3 of 4
    since = statistics.since_rejection(trace, 0, 4)
    assert [s.value for s in since] == pytest.approx([3 / 4, 2 / 3, 1 / 2, 0])
    assert [s.count for s in since] == [4, 3, 2, 1]
    assert statistics.run_lengths(trace, 0).tolist() == [2, 1, 0, 3]
    centred = hits - 0.6
    pairs = [centred[i] * centred[i + 1] for i in (0, 1, 2, 3, 4, 6, 7, 8)]
    assert statistics.autocorrelation(trace, 0, [1])[0] == pytest.approx(np.mean(pairs) / (centred**2).mean())
    table = statistics.pair_table(trace, 0, 1)
    assert (table.same.value, table.target_if_same.value, table.target_if_differ.value) == (
        0.9,
        pytest.approx(6 / 9),
        0.0,
    )
    assert (table.off_path.value, table.off_path.count) == (0.5, 4)


@pytest.mark.parametrize("sampled", [False, True])
def test_show_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str], sampled: bool) -> None:
    """Tables of exits and pairs, and a figure that is not replaced unasked."""
    trace = example(sampled=sampled)
    save_trace(trace, tmp_path / "t")
    arguments = ["trace", "show", str(tmp_path / "t"), "--pair", "2,4", "--out-dir", str(tmp_path)]
    for status in (0, 2):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == status
    printed = capsys.readouterr()
    assert f"{statistics.agreement(trace, 0).value:.3f} ±" in printed.out
    assert str(statistics.pair_table(trace, 0, 1).same) in printed.out
    assert ("accepted" in printed.out) == sampled
    assert "exists already" in printed.err
    assert (tmp_path / "trace.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        main(["trace", "show", str(tmp_path / "t"), "--pair", "4,2"])
    assert "lower first" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["trace", "show", str(tmp_path / "t"), "--out-dir", str(tmp_path / "t")])
    told = capsys.readouterr()
    assert "is a file; give a folder" in told.err
    assert not told.out, "before any table"


def test_golden_trace() -> None:
    """A file that version 2 wrote is read, and replays as it did; a change here is a change of format or of results."""
    trace = load_trace(Path(__file__).parent / "data/golden.trace")
    ours = example()
    for name in ("labels", "starts"):
        np.testing.assert_array_equal(getattr(trace, name), getattr(ours, name))
    np.testing.assert_array_equal(trace.off_path.rows, ours.off_path.rows)
    cascade = Cascade((Level("net", 2), Level("net", 4, 2), Level("net", 6, 3)))
    graph = StepGraph(cascade)
    sampler = ReplaySource(trace, cascade, {"net": NETWORK}).sampler(1, np.random.default_rng(0))
    node, room, found = graph.start(30), 30, []
    while node is not None:
        matched = 0
        if node.kind is Kind.VERIFY:
            matched = sampler.verify(node)
            found.append(f"{node.level}:{matched}/{node.run}")
        elif node.kind is Kind.DRAFT:
            sampler.draft(node)
        move = graph.follow(node, matched)
        room -= move.committed
        node = move.target if not move.committed or move.target is None else graph.with_room(move.target, room)
    assert room == 0
    assert " ".join(found) == GOLDEN
