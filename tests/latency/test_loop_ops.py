"""Ops of a decode loop in a profile: what is priced when, what is refused, and two profiles side by side."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest
from latency_fakes import WHOLE_LAYER, make_profile, power_law_ms, small_rows
from typer.testing import CliRunner

from hispec_sim.cli.profile import profile_app
from hispec_sim.errors import InputError
from hispec_sim.latency import NetworkCost, ProfileRow, read_profile, write_profile
from hispec_sim.latency.curves import profile_slices
from hispec_sim.latency.interpolation import OpInterpolator

AT = {"first_layer": 0, "batch": 4, "tokens": 4, "context": 64}


def loop_rows() -> list[ProfileRow]:
    rows = small_rows(whole_layer=True)
    for batch in (1, 4, 16):
        rows.append(ProfileRow("host", 1, batch, 1, None, 0.25 * batch, "measured"))
        for tokens in (1, 4, 16):
            rows.append(ProfileRow("forward", 1, batch, tokens, None, 2.0 * tokens**0.5, "measured"))
            rows.append(ProfileRow("choose", 1, batch, tokens, None, 0.5 * batch * tokens, "measured"))
    rows += [
        ProfileRow("exit_head_2", 1, *at, 3.0 * at[1], "measured") for at in product((1, 4, 16), (1, 4), (1, 1024))
    ]
    return rows


def repeats(*lengths: int, share: float, read: bool = True) -> list[ProfileRow]:
    cost = NetworkCost(make_profile(loop_rows()), tensor_parallel=1)
    rows = []
    for n, batch, nth, context in product(lengths, (1, 4), (1, 2), (1, 64, 1024)):
        logits = batch * read
        parts = cost.parts_ms(first_layer=0, last_layer=n, batch=batch, tokens=batch, logits=logits, context=context)
        usual_ms = sum(float(ms) for part, ms in parts.items() if part != "host")
        ms = usual_ms if nth == 1 else share * usual_ms
        op = f"{'' if read else 'silent_'}repeat_{n}"
        rows.append(ProfileRow(op, 1, batch, nth, context, ms, "measured", ms, ms, 5))
    return rows


def test_each_is_priced_where_it_happens():
    cost = NetworkCost(make_profile(loop_rows()), tensor_parallel=1)
    read = {name: float(ms) for name, ms in cost.parts_ms(**AT, last_layer=2, logits=4).items()}
    assert read["forward"] == pytest.approx(2.0)
    assert read["exit_head"] == pytest.approx(3.0)
    assert read["host"] == pytest.approx(0.25 * 4 + 0.5 * 4)
    assert read["layer"] == pytest.approx(2 * power_law_ms(4, 1, 64))
    silent = {name: float(ms) for name, ms in cost.parts_ms(**AT, last_layer=2, logits=0).items()}
    assert (silent["exit_head"], silent["lm_head"], silent["host"]) == (0, 0, pytest.approx(1.0))
    elsewhere = {name: float(ms) for name, ms in cost.parts_ms(**AT, last_layer=3, logits=4).items()}
    assert (elsewhere["exit_head"], elsewhere["host"]) == (0, pytest.approx(3.0))


def test_only_a_measured_decode_loop_pads_its_batches():
    assert NetworkCost(make_profile(loop_rows()), tensor_parallel=1).pads
    assert not NetworkCost(WHOLE_LAYER, tensor_parallel=1).pads


def test_what_a_repeat_saves_is_saved_in_a_row():
    """Of all parts but the loop's, in proportion; linear between the lengths that there are."""
    rows = repeats(2, share=0.5) + repeats(4, share=0.9) + repeats(2, share=0.8, read=False)
    cost = NetworkCost(make_profile(loop_rows() + rows), tensor_parallel=1)
    spans = [(last, 4) for last in (1, 2, 3, 4, 6, 8)] + [(2, 0)]
    usual = {span: cost.parts_ms(**AT, last_layer=span[0], logits=span[1]) for span in spans}
    usual_ms = {span: sum(float(ms) for part, ms in parts.items() if part != "host") for span, parts in usual.items()}
    at_2, at_4, silent = 0.5 * usual_ms[2, 4], 0.1 * usual_ms[4, 4], 0.2 * usual_ms[2, 0]
    saved_ms = dict(zip(spans, (at_2, at_2, (at_2 + at_4) / 2, at_4, at_4 / 2, 0.0, silent), strict=True))
    for (span, saved), place in product(saved_ms.items(), (1, 2, 9)):
        again = cost.parts_ms(**AT, last_layer=span[0], logits=span[1], in_row=place)
        for part, ms in usual[span].items():
            kept = 1.0 if part == "host" or place == 1 else max(0.0, 1 - saved / usual_ms[span])
            assert float(again[part]) == pytest.approx(float(ms) * kept), (part, span)
    early = {**AT, "first_layer": 2, "last_layer": 6, "logits": 4, "tokens": 12}  # finds the LM head as drafts left it
    for place in (1, 9):
        less_ms = float(cost.forward_ms(**early) - cost.forward_ms(**early, in_row=place))
        assert less_ms == pytest.approx(at_2 - silent)


@pytest.mark.parametrize(("first", "share"), [(1, 1.0), (2, 1.0), (3, 0.5), (4, 0.0), (6, 0.0)])
@pytest.mark.parametrize(("tokens", "at_tokens"), [(1, 2), (2, 2), (3, 3), (5, 5), (9, 5)])
def test_the_target_takes_what_it_takes_behind_drafts(first, share, tokens, at_tokens):
    """From an exit on, and only where it is read out: more by what is linear between exits and numbers of tokens, and
    as of the nearest of these beyond those that there are."""
    usual = NetworkCost(make_profile(loop_rows()), tensor_parallel=1)
    rows = []
    for exit_layer, batch, n, context in product((2, 4), (1, 4), (2, 5), (1, 64, 1024)):
        at = {"first_layer": exit_layer, "last_layer": 8, "batch": batch, "tokens": batch * n, "context": context}
        parts = usual.parts_ms(**at, logits=batch * n)
        more_ms = n / 10 if exit_layer == 2 else 0.0
        ms = more_ms + sum(float(ms) for part, ms in parts.items() if part != "host")
        rows.append(ProfileRow(f"verify_{exit_layer}", 1, batch, n, context, ms, "measured", ms, ms, 5))
    seldom = NetworkCost(make_profile(loop_rows() + rows), tensor_parallel=1)
    at = {"first_layer": first, "last_layer": 8, "batch": 4, "tokens": 4 * tokens, "context": 64}
    for logits, expected in ((4 * tokens, share * at_tokens / 10), (0, 0.0)):
        more_ms = float(seldom.forward_ms(**at, logits=logits) - usual.forward_ms(**at, logits=logits))
        assert more_ms == pytest.approx(expected, abs=1e-9)
    early = {"first_layer": first, "last_layer": 7, "batch": 4, "tokens": 4 * tokens, "context": 64}
    assert seldom.forward_ms(**early, logits=4) == usual.forward_ms(**early, logits=4)


def test_between_batches_what_is_saved_is_linear_and_not_what_forwards_take():
    """Three rows of an LM head may take longer than four: what drafts and verifications of three sequences save lies
    between what one and four save, which a product of three rows has no part in."""
    usual_rows = [row for row in loop_rows() if row.op != "lm_head"]
    for m in (1, 2, 3, 4, 6, 8, 256):
        ms = 40.0 if m in (3, 6) else float(m)
        usual_rows.append(ProfileRow("lm_head", 1, 1, m, None, ms, "measured", ms, ms, 5))
    usual = NetworkCost(make_profile(usual_rows), tensor_parallel=1)

    def at(batch: int, first: int, last: int, tokens: int) -> dict[str, int]:
        rows = batch * tokens
        return {"first_layer": first, "last_layer": last, "batch": batch, "tokens": rows, "logits": rows, "context": 64}

    saved_ms, rows = {1: 0.5, 4: 1.1}, []
    for batch, context in product((1, 4), (1, 64, 1024)):
        for op, span, tokens in (("repeat_2", (0, 2), 1), ("silent_repeat_2", (0, 2), 1), ("verify_2", (2, 8), 2)):
            asked = at(batch, *span, tokens) | {"context": context}
            parts = usual.parts_ms(**asked | ({"logits": 0} if "silent" in op else {}))
            ms = sum(float(part_ms) for part, part_ms in parts.items() if part != "host") - saved_ms[batch]
            rows += [ProfileRow(op, 1, batch, n, context, ms, "measured", ms, ms, 5) for n in {2, tokens}]
    cost = NetworkCost(make_profile(usual_rows + rows), tensor_parallel=1)
    for batch, saved in ((1, 0.5), (3, 0.9), (4, 1.1)):
        for span, tokens, in_row in (((0, 2), 1, 2), ((2, 8), 2, None)):
            asked = at(batch, *span, tokens)
            less_ms = float(usual.forward_ms(**asked) - cost.forward_ms(**asked, in_row=in_row))
            assert less_ms == pytest.approx(saved), (batch, span)


def test_heads_that_take_more_in_a_row_do_so_for_verifications_too():
    cost = NetworkCost(
        make_profile(loop_rows() + repeats(2, share=1.2) + repeats(2, share=1.0, read=False)), tensor_parallel=1
    )
    draft = {**AT, "last_layer": 2, "logits": 4}
    early = {**AT, "first_layer": 2, "last_layer": 6, "logits": 4, "tokens": 12}
    for at in (draft, early):
        more_ms = float(cost.forward_ms(**at, in_row=2) - cost.forward_ms(**at))
        assert more_ms == pytest.approx(0.2 / 1.2 * (float(cost.forward_ms(**draft, in_row=2)) - 3.0)), at


@pytest.mark.parametrize(
    ("batch", "tokens", "rows", "saved"),
    [(1, 1, 1, 0.1), (1, 4, 4, 1.2), (4, 4, 4, 1.2), (1, 3, 2, 0.1 + 1.1 / 3), (1, 9, 9, 1.2)],
)
def test_a_verification_finds_heads_as_so_many_rows_find_them(batch, tokens, rows, saved):
    """Four rows of one sequence as one of each of four: .1 ms is saved for one row here and 1.2 ms for four, as where a
    product of four rows reads a matrix that is not in the caches slowly. Beyond the largest batch, as much as there."""
    usual = NetworkCost(make_profile(loop_rows()), tensor_parallel=1)
    of_rows = []
    for batch_of_drafts, nth, context, read in product((1, 4), (1, 2, 4), (1, 64, 1024), (True, False)):
        at = {"first_layer": 0, "last_layer": 2, "batch": batch_of_drafts, "tokens": batch_of_drafts}
        parts = usual.parts_ms(**at, logits=batch_of_drafts * read, context=context)
        ms = sum(float(part_ms) for part, part_ms in parts.items() if part != "host")
        ms -= read * {1: 0.1, 4: 1.2}[batch_of_drafts]
        op = "repeat_2" if read else "silent_repeat_2"
        of_rows.append(ProfileRow(op, 1, batch_of_drafts, nth, context, ms, "measured", ms, ms, 5))
    cost = NetworkCost(make_profile(loop_rows() + of_rows), tensor_parallel=1)
    asked = {"first_layer": 2, "last_layer": 6, "batch": batch, "tokens": tokens, "logits": rows, "context": 64}
    less_ms = float(usual.forward_ms(**asked) - cost.forward_ms(**asked, in_row=1))
    assert less_ms == pytest.approx(saved)


def test_a_verification_finds_its_layers_as_its_last_one_left_them():
    """What six layers again save beyond two again, from the second time on."""
    rows = [row for length in (2, 6) for row in repeats(length, share=0.9 - length / 20, read=False)]
    cost = NetworkCost(make_profile(loop_rows() + rows + repeats(2, share=1.0)), tensor_parallel=1)
    silent_ms = [float(cost.forward_ms(**AT, last_layer=last, logits=0)) for last in (2, 6)]
    again_ms = [float(cost.forward_ms(**AT, last_layer=last, logits=0, in_row=2)) for last in (2, 6)]
    layers_ms = (silent_ms[1] - again_ms[1]) - (silent_ms[0] - again_ms[0])
    early = {**AT, "first_layer": 2, "last_layer": 6, "logits": 4, "tokens": 12}
    first_ms, second_ms = (float(cost.forward_ms(**early, in_row=place)) for place in (1, 2))
    assert layers_ms > 0
    assert first_ms - second_ms == pytest.approx(layers_ms)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("exit_head_9", 1, 1, 1, 8), "op exit_head_9: the network has 8 layers"),
        (("repeat_9", 1, 1, 1, 8), "op repeat_9: the network has 8 layers"),
        (("exit_head_2", 1, 1, 1, None), "op exit_head_2 needs a context"),
        (("forward", 1, 1, 1, 8), "op forward takes no context"),
        (("exit_head_", 1, 1, 1, 8), "unknown op 'exit_head_'"),
    ],
)
def test_rows_that_make_no_sense_are_refused(row, message):
    with pytest.raises(InputError, match=message):
        make_profile([*small_rows(whole_layer=True), ProfileRow(*row, 1.0, "measured")])


def test_medians_of_repeats_stand_as_they_are_and_single_values_never_fall():
    for repeats_of, expected in ((None, 4.0), (5, 2.0)):
        rows = [row for row in small_rows(whole_layer=True) if row.op != "lm_head"]
        for tokens, ms in ((1, 1.0), (2, 4.0), (4, 2.0)):
            rows.append(ProfileRow("lm_head", 1, 1, tokens, None, ms, "measured", repeats=repeats_of))
        table = make_profile(rows).table("lm_head", 1)
        assert OpInterpolator(table, "x").at_tokens(4) == pytest.approx(expected)


def test_the_file_keeps_them(tmp_path):
    made = make_profile(loop_rows() + repeats(2, share=0.5))
    assert read_profile(write_profile(made, tmp_path / "p.csv")).tables[0].op == "choose"
    assert {"forward", "host", "choose", "exit_head_2", "repeat_2"} <= {found.op for found in profile_slices(made)}
    shown = CliRunner().invoke(profile_app, ["show", str(tmp_path / "p.csv"), "--out", str(tmp_path / "p.png")])
    assert shown.exception is None, shown.output
    assert "exit_head_2" in shown.output


def test_two_profiles_side_by_side(tmp_path):
    a = write_profile(make_profile(loop_rows()), tmp_path / "a.csv")
    slower = [
        ProfileRow(r.op, 1, r.batch, r.query_tokens, r.context, 2 * r.ms, r.origin)
        for r in small_rows(whole_layer=True)
    ]
    b = write_profile(make_profile(slower), tmp_path / "b.csv")
    arguments = ["compare", str(a), str(b), "--out", str(tmp_path / "both.svg")]
    done = CliRunner().invoke(profile_app, arguments, env={"COLUMNS": "140"})
    assert done.exception is None, done.output
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in done.output.splitlines() if "│" in line}
    assert [cell.strip() for cell in rows["layer"]][:4] == ["27", "2.00", "2.00", "2.00"]
    assert "only in A" in "".join(rows["exit_head_2"])
    assert (tmp_path / "both.svg").read_bytes().startswith(b"<?xml")
    again = CliRunner().invoke(profile_app, arguments)
    assert isinstance(again.exception, InputError)
    nowhere = CliRunner().invoke(profile_app, [*arguments[:3], "--out", str(tmp_path / "nodir" / "both.png")])
    assert isinstance(nowhere.exception, InputError)
    assert "nodir; make it first" in str(nowhere.exception)
    other = CliRunner().invoke(profile_app, ["compare", str(a), str(b), "--tensor-parallel", "2"])
    assert isinstance(other.exception, InputError)
    assert "side by side" not in other.output, "before any table"
    swapped = CliRunner().invoke(profile_app, ["compare", str(b), str(a)], env={"COLUMNS": "140"})
    assert re.search(r"exit_head_2 .*only in B", swapped.output)


def test_what_takes_no_time_has_no_ratio(tmp_path):
    """A `forward` at the least that a fit gives, .00001 ms, would be a hundred thousand times faster than another."""
    rows = [replace(row, ms=1e-5) if (row.op, row.batch) == ("forward", 1) else row for row in loop_rows()]
    a, b = (write_profile(make_profile(each), tmp_path / f"{n}.csv") for n, each in enumerate((rows, loop_rows())))
    for order in ((a, b), (b, a)):
        shown = CliRunner().invoke(profile_app, ["compare", *map(str, order)], env={"COLUMNS": "140"})
        assert re.search(r"│ forward +│ +6 │ +1.00 │ +1.00 │ +1.00 │", shown.output), shown.output


def test_figures_that_cannot_be_written_are_one_sentence(tmp_path, monkeypatch):
    a = write_profile(make_profile(loop_rows()), tmp_path / "a.csv")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    for command in (["show", str(a)], ["compare", str(a), str(a)]):
        done = CliRunner().invoke(profile_app, [*command, "--out", str(tmp_path / "f.png")])
        assert isinstance(done.exception, InputError)
        assert "f.png: No space left on device" in str(done.exception)
