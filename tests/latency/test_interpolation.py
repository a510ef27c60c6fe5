"""Between the points, outside them, and how wrong that is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_fakes import SHIPPED, SMALL, make_profile, power_law_ms, small_rows

from hispec_sim.errors import InputError
from hispec_sim.latency import ProfileRow, leave_one_out, read_profile
from hispec_sim.latency.interpolation import OpInterpolator

SHIPPED_70B = read_profile(next(path for path in SHIPPED if path.match("h100_sxm/llama-3.1-70b.csv")))
LINEAR = OpInterpolator(SHIPPED_70B.table("layer_linear", 4), "70B")
ATTENTION = OpInterpolator(SHIPPED_70B.table("attention", 4), "70B")
POWER_LAW = OpInterpolator(SMALL.table("attention", 1), "small")


@pytest.mark.parametrize("op", ["layer_linear", "lm_head", "all_reduce_custom"])
def test_token_ops_are_exact_at_the_points_but_for_falls(op):
    table = SHIPPED_70B.table(op, 4)
    asked = OpInterpolator(table, "")
    got = np.array([asked.at_tokens(x) for x in table.query_tokens])
    np.testing.assert_allclose(got, np.maximum.accumulate(table.ms[0, :, 0]), rtol=1e-12)


def test_attention_is_exact_at_the_points_where_the_data_never_fall():
    table = SMALL.table("attention", 1)
    for i, batch in enumerate(table.batch):
        for j, tokens in enumerate(table.query_tokens):
            np.testing.assert_allclose(POWER_LAW.at(batch, tokens, table.context), table.ms[i, j], rtol=1e-12)


def test_both_sides_of_a_kernel_switch_are_kept():
    ms = {1: 1.0, 128: 1.0, 129: 2.0, 256: 2.0}
    rows = [row for row in small_rows() if row.op != "layer_linear"]
    rows += [ProfileRow("layer_linear", 1, 1, m, None, value, "measured") for m, value in ms.items()]
    asked = OpInterpolator(make_profile(rows).table("layer_linear", 1), "")
    assert [asked.at_tokens(m) for m in (100, 128, 129, 200)] == pytest.approx([1, 1, 2, 2])


@given(batch=st.floats(1, 16), tokens=st.floats(1, 16), context=st.floats(1, 1024))
def test_products_of_powers_are_interpolated_exactly(batch, tokens, context):
    assert float(POWER_LAW.at(batch, tokens, context)) == pytest.approx(power_law_ms(batch, tokens, context))


@given(tokens=st.floats(1, 16384), more=st.floats(1, 4))
def test_linear_layers_never_get_faster_with_tokens(tokens, more):
    assert LINEAR.at_tokens(min(tokens * more, 16384)) >= LINEAR.at_tokens(tokens) * (1 - 1e-12)


@settings(max_examples=200)
@given(
    at=st.tuples(st.floats(1, 128), st.floats(1, 16), st.floats(1, 32768)),
    more=st.tuples(st.floats(1, 2), st.floats(1, 2), st.floats(1, 2)),
)
def test_attention_never_gets_faster_along_any_axis(at, more):
    ends = (128, 16, 32768)
    beyond = tuple(min(x * factor, end) for x, factor, end in zip(at, more, ends, strict=True))
    assert ATTENTION.at(*beyond) >= ATTENTION.at(*at) * (1 - 1e-12)


@given(st.lists(st.floats(1, 32768), min_size=1, max_size=20))
def test_an_array_of_contexts_gives_what_each_gives(contexts):
    together = ATTENTION.at(3, 2.5, np.array(contexts))
    assert together.shape == (len(contexts),)
    np.testing.assert_array_equal(together, [ATTENTION.at(3, 2.5, context) for context in contexts])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda op: op.at(32, 1, 8), "small, op attention: batch 32 is outside the profiled range 1 to 16"),
        (lambda op: op.at(1, 17, 8), "query_tokens 17 is outside the profiled range 1 to 16"),
        (lambda op: op.at(1, 1, [8, 2000]), "context 2000 is outside the profiled range 1 to 1024.*allow_extrap"),
        (lambda op: op.at(1, 1, 0), "context 0 is outside"),
    ],
)
def test_outside_the_points_is_an_error_that_names_the_range(ask, message):
    with pytest.raises(InputError, match=message):
        ask(POWER_LAW)


def test_extrapolation_goes_on_with_the_last_slope_and_says_so():
    asked = OpInterpolator(SMALL.table("attention", 1), "small", allow_extrapolation=True)
    assert not asked.notes
    got = asked.at(64, 32, np.array([512.0, 4096.0]))
    np.testing.assert_allclose(got, [power_law_ms(64, 32, 512), power_law_ms(64, 32, 4096)])
    asked.at(128, 1, 1)
    assert sorted(asked.notes) == [
        "small, op attention: batch above 1 to 16",
        "small, op attention: context above 1 to 1024",
        "small, op attention: query_tokens above 1 to 16",
    ]


def test_extrapolation_below_holds_the_edge_and_zero_stays_an_error():
    rows = [row for row in small_rows() if row.query_tokens >= 4 or row.op != "lm_head"]
    asked = OpInterpolator(make_profile(rows).table("lm_head", 1), "small", allow_extrapolation=True)
    assert asked.at_tokens(1) == pytest.approx(asked.at_tokens(4))
    assert asked.notes == {"small, op lm_head: query_tokens below 4 to 256"}
    with pytest.raises(InputError, match="query_tokens 0 is outside"):
        asked.at_tokens(0)


def test_leave_one_out_is_zero_for_powers_and_known_for_a_bump():
    assert all(error.p95 < 1e-12 for error in leave_one_out(SMALL).values())
    rows = [row for row in small_rows() if row.op != "layer_linear"]
    rows += [ProfileRow("layer_linear", 1, 1, m, None, ms, "measured") for m, ms in ((1, 1.0), (4, 2.0), (16, 1.0))]
    error = leave_one_out(make_profile(rows))["layer_linear"]
    assert (error.median, error.n) == (pytest.approx(0.5), 1)  # 1 ms is predicted where 2 ms were measured


def test_of_measured_profiles_only_measured_points_are_left_out_and_bridged_from():
    """The derived one at 4 lies on the line from 1 to 16: met exactly, and near enough to make 16 easy."""
    rows = [row for row in small_rows() if row.op not in ("layer_linear", "layer_elementwise")]
    for tokens, ms in ((1, 1.0), (16, 4.0), (64, 1.0)):
        rows.append(ProfileRow("layer_linear", 1, 1, tokens, None, ms, "measured", repeats=5))
    rows.append(ProfileRow("layer_linear", 1, 1, 4, None, 2.0, "derived"))
    for tokens, origin in ((1, "measured"), (4, "derived"), (16, "measured")):
        repeats = 5 if origin == "measured" else None
        rows.append(ProfileRow("layer_elementwise", 1, 1, tokens, None, 1.0, origin, repeats=repeats))
    errors = leave_one_out(make_profile(rows))
    assert (errors["layer_linear"].median, errors["layer_linear"].n) == (pytest.approx(0.75), 1)
    assert "layer_elementwise" not in errors, "nothing measured lies between measured points"


# Bounds a little above what `hispec profile show` prints; the spacing left is twice the profile's own.
BOUNDS = {
    "layer_linear": (0.07, 0.30),
    "lm_head": (0.07, 0.30),
    "attention": (0.07, 0.75),
    "all_reduce_custom": (0.10, 0.35),
    "all_reduce_nccl": (0.10, 0.35),
    "layer_elementwise": (0.20, 0.30),
    "embedding": (0.20, 0.30),
    "attention_prefill": (0.60, 2.50),
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_leave_one_out_error_of_the_shipped_profiles(path):
    errors = leave_one_out(read_profile(path))
    assert set(errors) == set(BOUNDS)
    over = {
        op: error
        for op, error in errors.items()
        if error.median > BOUNDS[op][0] or error.p95 > BOUNDS[op][1] or error.n < 10
    }
    assert not over
