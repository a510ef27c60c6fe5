"""The file format: what is written comes back, and every broken file says what is wrong with it and how to mend it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from latency_fakes import ALL_SHIPPED, SHIPPED, SMALL, WHOLE_LAYER, make_profile, small_rows

from hispec_sim.errors import InputError
from hispec_sim.latency import ProfileRow, read_profile, write_profile
from hispec_sim.latency.profile_file import profile_text

TEXT = profile_text(SMALL)


@pytest.mark.parametrize("profile", [SMALL, WHOLE_LAYER], ids=["parts", "whole layers"])
def test_round_trip_gives_the_same_bytes(profile, tmp_path):
    path = write_profile(profile, tmp_path / "new" / "a.csv")
    again = write_profile(read_profile(path), tmp_path / "b.csv")
    assert again.read_bytes() == path.read_bytes()
    assert read_profile(path).provenance == profile.provenance
    assert read_profile(path).network == profile.network


def test_what_was_measured_of_decodes_comes_back_where_there_is_something(tmp_path):
    measured = replace(SMALL.provenance, decode_error=0.0125, mean_over_median=0.991)
    checked = replace(SMALL, provenance=measured)
    assert "# decode_error: 0.0125\n# mean_over_median: 0.991\n" in profile_text(checked)
    assert checked.spread().mean == 0.991
    assert read_profile(write_profile(checked, tmp_path / "a.csv")).provenance == checked.provenance
    with pytest.raises(InputError, match="decode_error: -1 must be a finite number of at least 0"):
        replace(SMALL.provenance, decode_error=-1)
    with pytest.raises(InputError, match="mean_over_median: 0 must be a finite number above 0"):
        replace(SMALL.provenance, mean_over_median=0)


@pytest.mark.parametrize("path", ALL_SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shipped_profiles_are_as_written(path):
    profile = read_profile(path)
    assert profile_text(profile).encode() == path.read_bytes()
    assert profile.network.name == path.stem
    threads = f"{profile.provenance.machine.get('threads', '')}_thread"  # a CPU's folder is whichever was measured last
    assert path.parent.name == profile.device or (path not in SHIPPED and path.parent.name == f"cpu_{threads}")
    assert path in SHIPPED or profile.device.endswith(threads)


def test_shipped_profiles_stay_small():
    assert len(SHIPPED) == 16
    assert all(path.stat().st_size < 50_000 for path in ALL_SHIPPED if path not in SHIPPED)
    assert sum(path.stat().st_size for path in SHIPPED) < 800_000


def test_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "crlf.csv"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert read_profile(path).rows == read_profile(write_profile(SMALL, tmp_path / "lf.csv")).rows


def test_never_overwrites_unless_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"a\.csv exists already; nothing was written\. Give --force"):
        write_profile(SMALL, path)
    assert path.read_text() == "precious"
    write_profile(SMALL, path, overwrite=True)
    assert path.read_text() == TEXT


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    path = write_profile(SMALL, tmp_path / "a.csv")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("hispec_sim.latency.profile_file.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_profile(WHOLE_LAYER, path, overwrite=True)
    assert [found.name for found in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_text() == TEXT


def resealed(text: str) -> str:
    """The front matter's row count and checksum made to fit the body: a file broken by its writer, not in transit."""
    front = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    body = text[len(front) :]
    front = re.sub(r"rows: \d+", f"rows: {body.count(chr(10)) - 1}", front)
    return re.sub(r"sha256: \w+", f"sha256: {hashlib.sha256(body.encode()).hexdigest()}", front) + body


def without(pattern: str) -> Callable[[str], str]:
    """Drop the lines that match."""
    return lambda text: resealed("".join(x for x in text.splitlines(keepends=True) if not re.search(pattern, x)))


def swap(old: str, new: str) -> Callable[[str], str]:
    """Put `new` for the first `old`, which has to be there."""

    def broken(text: str) -> str:
        assert old in text, old
        return resealed(text.replace(old, new, 1))

    return broken


ROW = "layer_linear,1,1,4,,2,,,,measured\n"  # a row of TEXT

BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "empty": (lambda text: "", "file is empty.*hispec profile"),
    "only blank lines": (lambda text: "\n\n", "file is empty"),
    "not a profile": (lambda text: "a,b\n1,2\n", "line 1: no format version; .* starts with `# format:"),
    "front matter not YAML": (swap("# device: toy", "# device: [toy"), "not YAML"),
    "front matter a list": (lambda text: "# - a\nop\n", "line 1: no format version"),
    "no format": (without("^# format"), "no format version"),
    "foreign format": (swap("hispec-latency-profile 1", "vidur 1"), "'vidur 1' is not a latency profile"),
    "format without version": (swap("profile 1", "profile"), "is not a latency profile; expected"),
    "newer format": (swap("profile 1", "profile 2"), "version 2 is newer than version 1.*pip install -U"),
    "no device": (without("^# device"), "front matter: missing device"),
    "no checksum": (without("^# sha256"), "front matter: missing sha256"),
    "mean a word": (swap("# rows:", "# mean_over_median: small\n# rows:"), "mean_over_median: 'small' must be a float"),
    "decode error a word": (swap("# rows:", "# decode_error: small\n# rows:"), "decode_error: 'small' must be a float"),
    "rows not a number": (lambda text: re.sub(r"rows: \d+", "rows: many", text), "rows: 'many' must be a int"),
    "network not a mapping": (
        lambda text: re.sub(r"# network:\n(#   .*\n)+", "# network: tiny\n", text),
        "network: 'tiny' must be a dict",
    ),
    "network field unknown": (swap("#   n_layers: 8", "#   depth: 8"), "network: .*depth"),
    "network field impossible": (swap("#   n_layers: 8", "#   n_layers: 0"), "n_layers must be a whole number"),
    "cut off mid-row": (lambda text: text[:-20], "line .*cells where the header has"),
    "cut off between rows": (lambda text: text[: text.rindex("\n", 0, -1) + 1], "cut short or edited"),
    "half a header": (lambda text: text.split("_parallel,batch")[0], "missing column tensor_parallel"),
    "no body": (lambda text: text.split("op,tensor")[0], "missing column op"),
    "a digit changed": (lambda text: text.replace(",2,,,,measured", ",3,,,,measured", 1), "sha256 checksum"),
    "NaN": (swap(ROW, ROW.replace(",2,", ",nan,")), r"line \d+, column ms: nan must be a finite time"),
    "infinite": (swap(ROW, ROW.replace(",2,", ",inf,")), "column ms: inf must be a finite time"),
    "negative": (swap(ROW, ROW.replace(",2,", ",-2,")), "column ms: -2.0 must be .* above 0"),
    "zero": (swap(ROW, ROW.replace(",2,", ",0,")), "column ms: 0.0 must be .* above 0"),
    "not a number": (swap(ROW, ROW.replace(",2,", ",fast,")), "column ms: 'fast' must be a time"),
    "no time": (swap(ROW, ROW.replace(",2,", ",,")), "column ms: '' must be a time"),
    "half a token": (swap(ROW, ROW.replace(",4,", ",4.5,")), "column query_tokens: '4.5' must be a whole number"),
    "no tokens": (swap(ROW, ROW.replace(",4,", ",0,")), "column query_tokens: 0 must be a whole number of at least 1"),
    "unknown op": (swap(ROW, ROW.replace("layer_linear", "gemm")), "unknown op 'gemm'; known ops are layer_linear"),
    "unknown origin": (swap(ROW, ROW.replace("measured", "guessed")), "origin: 'guessed' is not one of measured"),
    "batch for a token op": (swap(ROW, "layer_linear,1,2,4,,2,,,,measured\n"), "batch: 2 must be 1 .* query_tokens"),
    "context for a token op": (swap(ROW, ROW.replace(",4,,", ",4,9,")), "takes no context: leave it empty"),
    "no context for attention": (
        swap("attention,1,1,1,1,", "attention,1,1,1,,"),
        "column context: op attention needs a context",
    ),
    "one quantile": (swap(ROW, "layer_linear,1,1,4,,2,1,,,measured\n"), "p10_ms and p90_ms: give both"),
    "quantiles crossed": (swap(ROW, "layer_linear,1,1,4,,2,3,4,9,measured\n"), "must not decrease, got 3.0, 2.0, 4.0"),
    "too few cells": (swap(ROW, "layer_linear,1,1,4,,2\n"), "6 cells where the header has 10 columns"),
    "duplicate point": (swap(ROW, ROW + ROW), "layer_linear, tensor_parallel 1: duplicate point at .*query_tokens 4"),
    "hole in the grid": (
        without("^attention,1,4,4,64,"),
        "attention, tensor_parallel 1: incomplete grid: no row at batch 4, query_tokens 4, context 64",
    ),
    "no LM head": (without("^lm_head,1"), "tensor_parallel 1: required op missing: lm_head"),
    "no attention": (without("^attention,1"), "missing: attention .*`layer` op may stand"),
    "no all-reduce": (without("^all_reduce"), "tensor_parallel 2: required op missing: all_reduce_custom or"),
    "no rows": (without(",(measured|derived)$"), "no rows; it needs at least"),
    "missing column": (
        lambda text: resealed(re.sub(",context,", ",ctx,", text)),
        r"line \d+: missing column context",
    ),
    "unknown column": (lambda text: resealed(text.replace("repeats,", "runs,")), "unknown or repeated column runs"),
    "repeated column": (lambda text: resealed(text.replace("repeats,", "ms,")), "unknown or repeated column"),
}


@pytest.mark.parametrize(("breaking", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_says_so(breaking, message, tmp_path):
    path = tmp_path / "broken.csv"
    path.write_text(breaking(TEXT), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_profile(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert re.search(message, text), text
    assert "\n" not in text.replace(str(path), "") or "YAML" in text


def test_the_line_is_the_files_own(tmp_path):
    path = tmp_path / "broken.csv"
    path.write_text(TEXT.replace(ROW, ROW.replace(",2,", ",nan,")))
    line = 1 + TEXT[: TEXT.index(ROW)].count("\n")
    with pytest.raises(InputError, match=f"line {line}, column ms"):
        read_profile(path)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: no such latency profile.*profiles/"):
        read_profile(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_profile(tmp_path)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match=r"binary\.csv: cannot be read"):
        read_profile(binary)


def test_quantiles_are_those_of_layers_where_they_have_some():
    """A head varies by a fifth and takes little; a layer by a tenth."""
    rows = [
        replace(row, p10_ms=0.95 * row.ms, p90_ms=1.1 * row.ms) if row.op == "layer" and row.context == 64 else row
        for row in WHOLE_LAYER.rows
    ]
    assert make_profile(rows).spread() == (pytest.approx(0.95), pytest.approx(1.1), None)


def test_quantiles_are_pooled_over_measured_rows():
    low, high, _ = SMALL.spread()
    assert (low, high) == pytest.approx((0.9, 1.2))
    bare = [ProfileRow(r.op, 1, r.batch, r.query_tokens, r.context, r.ms, "derived") for r in small_rows()]
    assert make_profile(bare).spread() is None
