"""What pricing adds to the measured rows of a decode loop."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from latency_fakes import ROOT, make_profile

from hispec_sim.errors import InputError
from hispec_sim.latency import ProfileRow, read_profile, write_profile
from hispec_sim.latency.completing import all_but_one, completed

BATCHES, TOKENS, CONTEXTS, PROMPTS = (1, 2, 4), (1, 4), (16, 64), (32, 128)


def layer_ms(batch: float, tokens: float, context: float) -> float:
    """A fixed time, the tokens, and attention."""
    return 1 + 0.1 * batch * tokens + 0.001 * batch * tokens * context


def measured() -> list[ProfileRow]:
    """Prompts of 128 tokens of one sequence only."""
    rows = [
        ProfileRow(op, 1, 1, m, None, 0.2 + 0.01 * m, "measured") for op in ("embedding", "lm_head") for m in (1, 64)
    ]
    rows += [
        ProfileRow(
            "layer", 1, b, t, c, layer_ms(b, t, c), "measured", 0.9 * layer_ms(b, t, c), 2 * layer_ms(b, t, c), 9
        )
        for b, t, c in product(BATCHES, TOKENS, CONTEXTS)
    ]
    prompts = [(1, 32), (1, 128), (2, 32), (4, 32)]
    rows += [ProfileRow("layer_prefill", 1, b, t, t, layer_ms(b, t, t), "measured") for b, t in prompts]
    rows += [
        ProfileRow("forward", 1, b, t, None, 0.5 * b, "measured") for b, t in [*product(BATCHES, TOKENS), *prompts]
    ]
    return rows


def test_grids_are_full_and_attention_goes_on_in_proportion():
    at = {row.point: row for row in completed(measured())}
    for batch, tokens in product((*BATCHES, 3), TOKENS):
        for context in (1, 8):
            row = at["layer", 1, batch, tokens, context]
            assert (row.ms, row.origin) == (pytest.approx(layer_ms(batch, tokens, context)), "derived")
    for batch, tokens, context in product(BATCHES, (4, 32), (1, 8, 16, 64)):
        ms = layer_ms(batch, tokens, tokens) + 0.001 * batch * tokens * max(0, context - tokens)
        found = at["layer_prefill", 1, batch, tokens, context].ms
        assert found == pytest.approx(layer_ms(batch, 4, context) if tokens == 4 else ms)
    longer = layer_ms(1, 128, 128) / layer_ms(1, 32, 32)
    assert at["layer_prefill", 1, 4, 128, 128].ms == pytest.approx(layer_ms(4, 32, 32) * longer)
    assert at["forward", 1, 4, 128, 0].ms == pytest.approx(2.0)
    assert at["embedding", 1, 1, 512, 0].ms == pytest.approx(0.2 + 5.12)
    make_profile(measured())  # which no incomplete grid would


def test_contexts_between_those_measured_lie_on_a_line():
    """Between neighbours, not through all; and what is missing beyond the last is missing."""
    rows = [row for row in measured() if (row.op, row.query_tokens) != ("layer", 4)]
    bent = {(1, 16): 2.0, (1, 64): 3.0, (2, 16): 2.0, (2, 64): 4.0, (4, 16): 2.0, (4, 64): 6.0}
    rows += [ProfileRow("layer", 1, b, 4, c, ms, "measured") for (b, c), ms in bent.items()]
    rows += [ProfileRow("layer", 1, b, 1, c, 1.0 + c / 1024, "measured") for b in BATCHES for c in (32, 256)]
    rows += [ProfileRow("layer", 1, b, 4, 256, 15.0, "measured") for b in BATCHES]
    at = {row.point: row for row in completed(rows)}
    for batch, ms in ((1, 3.0), (2, 4.0), (4, 6.0)):
        between = at["layer", 1, batch, 4, 32]
        assert (between.ms, between.origin) == (pytest.approx(2 + (ms - 2) / 3), "derived")
    make_profile(rows)
    with pytest.raises(InputError, match="incomplete grid"):
        make_profile([row for row in rows if row.point != ("layer", 1, 2, 4, 256)])


def test_a_file_holds_what_was_measured_and_says_as_much(tmp_path: Path):
    made = make_profile(measured())
    again = read_profile(write_profile(made, tmp_path / "p.csv"))
    assert {row.origin for row in again.rows} == {"measured"}
    for table in made.tables:
        same = again.table(table.op, 1)
        assert same is not None
        np.testing.assert_allclose(same.ms, table.ms, rtol=1e-3)
        np.testing.assert_array_equal(same.measured, table.measured)


@pytest.mark.parametrize("op", ["layer", "embedding", "lm_head", "forward"])
def test_a_profile_without_an_op_is_refused_for_it(op: str):
    with pytest.raises(InputError, match=r"missing|incomplete grid"):
        make_profile([row for row in measured() if row.op != op])


@pytest.mark.parametrize("op", ["layer", "forward", "layer_prefill"])
def test_a_row_that_is_missing_is_not_made_up(op: str):
    """Those that others follow from: of the most tokens, the longest context."""
    last = max(row.point for row in measured() if row.op == op and row.batch == 1)
    with pytest.raises(InputError, match="incomplete grid"):
        make_profile([row for row in measured() if row.point != last])


def test_other_profiles_are_left_as_they_are():
    """Those without a decode loop, and files that hold their derived rows themselves."""
    of_a_gpu = read_profile(ROOT / "profiles" / "h100_sxm" / "llama-3.1-8b.csv").rows
    derived = [*measured(), ProfileRow("layer", 1, 1, 1, 1, 1.0, "derived")]
    assert completed(of_a_gpu) == list(of_a_gpu)
    assert completed(derived) == derived


@pytest.mark.parametrize(
    ("batches", "derived"), [((1, 2, 4), (3,)), ((1, 2, 4, 8), (7,)), ((1, 4), ()), ((1, 3, 4), ())]
)
def test_a_part_of_a_batch_takes_its_sequences_out_of_the_caches(batches: tuple[int, ...], derived: tuple[int, ...]):
    """For .3 ms, which the whole batch does not; and only where one, a part and the whole were measured."""

    def ms(batch: int) -> float:
        return 1 + 0.5 * batch + 0.3 * (1 < batch < batches[-1])

    rows = [ProfileRow("layer", 1, batch, 2, 64, ms(batch), "measured") for batch in batches]
    rows.append(ProfileRow("lm_head", 1, 1, 2, None, 1.0, "measured"))
    # What these take less than their parts is what pricing takes from them: linear between batches as it is.
    rows += [
        ProfileRow(op, 1, batch, 2, 64, ms(batch), "measured") for op in ("repeat_2", "verify_2") for batch in batches
    ]
    found = all_but_one(rows)
    assert [(row.op, row.batch, row.query_tokens, row.context, row.origin) for row in found] == [
        ("layer", batch, 2, 64, "derived") for batch in derived
    ]
    assert [row.ms for row in found] == pytest.approx([ms(batch) for batch in derived])
