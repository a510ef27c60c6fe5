"""Recommendations on hand-made tables with known answers, and flip points against closed forms."""

from __future__ import annotations

import math
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hand_made import SmallSweep, row
from hypothesis import given
from hypothesis import strategies as st

from hispec_sim.cascade import Bonus
from hispec_sim.closed_forms import leviathan_tokens_per_round
from hispec_sim.errors import InputError
from hispec_sim.report.recommendation import Recommendation
from hispec_sim.report.sweep_folder import read_recommendation, write_recommendation
from hispec_sim.sweep.answer import recommend
from hispec_sim.sweep.conditions import Conditions
from hispec_sim.sweep.contest import Question
from hispec_sim.sweep.defaults import default_exits, is_default
from hispec_sim.sweep.flip import PRECISION, flip_point
from hispec_sim.sweep.recommend import advise, competing, leading, paired_ratio, untried

CONDITIONS = Conditions(("prompt_tokens", "output_tokens"), ("concurrency",))
QUICK = Question(repetitions=5, vary=False)


def answer(folder: Path, question: Question = QUICK, **options: object) -> Recommendation:
    sweep = SmallSweep(folder, **options)  # type: ignore[arg-type]
    return recommend(sweep.table, sweep.scenario, CONDITIONS, question, {"n_points": 5})


@pytest.fixture(scope="module")
def hierarchy_wins(tmp_path_factory: pytest.TempPathFactory) -> Recommendation:
    return answer(tmp_path_factory.mktemp("h"), Question(repetitions=5), exit_4=0.6, agreed=(0.95, 0.97))


def test_a_hierarchy_wins(hierarchy_wins: Recommendation) -> None:
    """Its early verifier knows much more than its draft; the margin's interval is above 1."""
    assert hierarchy_wins.advice == "hierarchy"
    assert hierarchy_wins.sentence.startswith("Run hispec (draft at exit 4, verify early at exit 8, Nd 2, Ni 4)")
    margins = {choice.role: choice.recommended_over_this for choice in hierarchy_wins.choices}
    assert margins["hierarchy"].ratio == 1
    assert 1.1 < margins["single_layer"].low < margins["single_layer"].ratio < margins["autoregressive"].ratio
    assert {choice.role: choice.n_points for choice in hierarchy_wins.choices}["single_layer"] == 3


def test_flips_where_the_early_exit_is_good_enough(tmp_path: Path, hierarchy_wins: Recommendation) -> None:
    """At the flip point a sweep with that acceptance gives the other advice, a little before it the same."""
    effect = next(effect for effect in hierarchy_wins.inputs if effect.name == "exit_4")
    assert effect.advice_above == "single_layer"
    assert effect.flips_above is not None
    assert effect.flips_below is None
    assert answer(tmp_path / "a", exit_4=effect.flips_above + 0.05, agreed=(0.95, 0.97)).advice == "single_layer"
    assert answer(tmp_path / "b", exit_4=effect.flips_above - 0.05, agreed=(0.95, 0.97)).advice == "hierarchy"


def test_one_level_is_enough_and_autoregressive(tmp_path: Path) -> None:
    one = answer(tmp_path / "one", exit_4=0.8, agreed=(0.6, 0.7))
    assert one.advice == "single_layer"
    assert one.sentence.startswith("One level is enough: draft at exit 4")
    none = answer(tmp_path / "none", exit_4=0.08, agreed=(0.1, 0.2))
    assert none.advice == "autoregressive"
    assert none.sentence.startswith("Do not speculate")
    assert none.speculative_config is None


def test_written_and_read_again(tmp_path: Path, hierarchy_wins: Recommendation) -> None:
    assert read_recommendation(tmp_path) is None
    write_recommendation(tmp_path, hierarchy_wins)
    assert read_recommendation(tmp_path) == hierarchy_wins
    (tmp_path / "recommendation.json").write_text('{"version": 99}')
    with pytest.raises(InputError, match="version 99"):
        read_recommendation(tmp_path)


def test_limits_that_nothing_keeps_to() -> None:
    table = pd.DataFrame([row("ar", 100.0), row("e", 120.0, (4, 0), (32, 2))])
    with pytest.raises(InputError, match=r"--max-tpot-ms 5; the quickest has 8.33 ms"):
        competing(table, CONDITIONS, max_tpot_ms=5.0)
    assert competing(table, CONDITIONS, max_tpot_ms=9.0)["point"].tolist() == ["e"]


def test_conditions_are_not_chosen() -> None:
    """Two loads are two questions, unless a latency limit makes them one; NaN is of every world."""
    table = pd.DataFrame(
        [row("a", 100.0, concurrency=1, assumed=math.nan), row("b", 300.0, concurrency=4, tpot_ms=13.0, assumed=0.5)]
    )
    with pytest.raises(InputError, match=r"2 values of concurrency \(1, 4\).*--where \"concurrency == 1\""):
        competing(table, CONDITIONS)
    assert competing(table, CONDITIONS, where="concurrency == 4")["point"].tolist() == ["b"]
    assert len(competing(table, CONDITIONS, max_tpot_ms=20)) == 2
    assert competing(table, CONDITIONS, where="assumed > 0.7")["point"].tolist() == ["a"]
    with pytest.raises(InputError, match="neither an axis nor a parameter"):
        competing(table, CONDITIONS, where="concurency == 4")
    both = pd.concat([table.assign(concurrency=1), table.assign(concurrency=1, assumed=0.9)])
    with pytest.raises(InputError, match="2 values of assumed"):
        competing(both, Conditions(("assumed",), ()))


def test_leaders_by_objective() -> None:
    table = pd.DataFrame([row(f"e{n}", 100.0 + n, (4, 0), (32, n)) for n in range(1, 6)] + [row("ar", 90.0)])
    leaders = leading(table, "tokens_per_s", 2)
    assert {kind: rows["point"].tolist() for kind, rows in leaders.items()} == {
        "autoregressive": ["ar"],
        "single_layer": ["e5", "e4"],
    }
    assert leading(table, "tpot_ms", 1)["single_layer"]["point"].tolist() == ["e5"]


def test_leaders_of_every_draft() -> None:
    """A draft network that is not among the leaders sends its best point too."""
    other = row("other", 50.0, (4, 0), (32, 2))
    other["levels"] = other["levels"].replace("llama-3.1-8b", "small", 1)
    worse = {**other, "point": "worse", "tokens_per_s": 40.0}
    table = pd.DataFrame([worse, other] + [row(f"e{n}", 100.0 + n, (4, 0), (32, n)) for n in range(1, 6)])
    assert leading(table, "tokens_per_s", 2)["single_layer"]["point"].tolist() == ["e5", "e4", "other"]


def test_more_complex_only_where_it_gains() -> None:
    assert advise({"autoregressive": 100, "single_layer": 100.9, "hierarchy": 100.8}, 0.01) == "autoregressive"
    assert advise({"autoregressive": 100, "single_layer": 120, "hierarchy": 121}, 0.01) == "single_layer"
    assert advise({"autoregressive": 100, "single_layer": 120, "hierarchy": 121.3}, 0.01) == "hierarchy"
    assert advise({"single_layer": 90, "hierarchy": 80}, 0.0) == "single_layer"


def test_what_could_be_luck_advises_nothing() -> None:
    scores = {"autoregressive": 100.0, "single_layer": 120.0, "hierarchy": 123.0}
    luck = {("single_layer", "autoregressive"): 1.05, ("hierarchy", "single_layer"): 1.03}
    assert advise(scores, 0.01) == "hierarchy"
    assert advise(scores, 0.01, luck) == "single_layer"
    assert advise(scores | {"hierarchy": 124.0}, 0.01, luck) == "hierarchy"


def test_paired_interval_by_hand() -> None:
    """Five log ratios of mean .1 and standard deviation .01581: half width 2.776 * .01581 / sqrt(5)."""
    logs = [0.08, 0.09, 0.1, 0.11, 0.12]
    below = [3.0, 50.0, 1.0, 7.0, 11.0]
    margin = paired_ratio([b * math.exp(x) for x, b in zip(logs, below, strict=True)], below)
    assert margin.ratio == pytest.approx(math.exp(0.1))
    assert math.log(margin.high / margin.ratio) == pytest.approx(2.776 * 0.015811 / math.sqrt(5), rel=0.004)


def test_paired_interval_covers() -> None:
    """95 % of intervals hold the true ratio, and pairing takes away luck that both share."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(1000):
        shared = rng.normal(0, 0.5, 10)
        margin = paired_ratio(np.exp(shared + 0.1 + rng.normal(0, 0.05, 10)), np.exp(shared))
        held += margin.low < math.exp(0.1) < margin.high
        assert margin.high / margin.low < 1.3
    assert 925 <= held <= 975


@given(st.floats(0.02, 0.98), st.floats(-5, 5), st.floats(0.1, 10))
def test_flip_of_a_threshold(share: float, value: float, width: float) -> None:
    threshold = value + share * width
    found = flip_point(lambda x: x >= threshold, value, value + width)
    assert found is not None
    assert found[1]
    assert 0 <= found[0] - threshold <= PRECISION * width * 1.001


def test_flip_nearest_and_none() -> None:
    """A window is found at its near side; no flip is no flip; few evaluations are made."""
    found = flip_point(lambda x: 0.4 < x < 0.6, 0.0, 1.0)
    assert found is not None
    assert found[0] == pytest.approx(0.4, abs=PRECISION)
    assert flip_point(lambda x: x < 2, 0.0, 1.0) is None
    assert flip_point(lambda x: x < 2, 1.0, 1.0) is None
    calls = count()
    flip_point(lambda x: (next(calls), x < -0.99)[1], 0.0, -1.0)
    assert next(calls) <= 5 + 6


def test_flip_against_leviathan() -> None:
    """Two levels stop paying where tokens per round equal their time in target passes: solved for a by hand."""
    draft_cost, length = 0.2, 2

    def pays(accept: float) -> bool:
        return leviathan_tokens_per_round(accept, length, Bonus.ALWAYS) > 1 + length * draft_cost

    found = flip_point(pays, 0.8, 0.0)
    assert found is not None
    by_hand = (-1 + math.sqrt(1 + 4 * 0.4)) / 2  # 1 + a + a^2 = 1.4
    assert found[0] == pytest.approx(by_hand, abs=0.8 * PRECISION)


def test_fairness_is_said() -> None:
    hierarchy = row("h", 120.0, (4, 0), (8, 6), (32, 8))
    assert untried(pd.DataFrame([row("ar", 90.0), row("e", 1.0, (4, 0), (32, 6)), hierarchy])) == []
    notes = untried(pd.DataFrame([row("ar", 90.0), row("e", 1.0, (3, 0), (32, 2)), hierarchy]))
    assert "never drafted at llama-3.1-8b@4" in notes[0]
    assert "Nd went to 2, the hierarchy's to 6" in notes[1]
    assert "no single-layer" in untried(pd.DataFrame([hierarchy]))[0]


def test_the_papers_default() -> None:
    assert default_exits(32) == (3, 8)
    assert default_exits(80) == (10, 20)
    assert default_exits(48) == (6, 12)
    levels = [{"network": "a", "exit_layer": e, "verify_period": p} for e, p in ((3, 0), (8, 2), (32, 4))]
    assert is_default(levels)
    levels[0] = levels[0] | {"network": "b"}
    assert not is_default(levels)
