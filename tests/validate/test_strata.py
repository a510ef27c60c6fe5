"""Sets of prompts in turn, and the recorded sequences that stand in for each."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Prompt
from hispec_sim.cascade import Bonus
from hispec_sim.errors import InputError
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.networks import NetworkSpec
from hispec_sim.profiler.prompts import Split, Text, sha256
from hispec_sim.validate.design import Configuration
from hispec_sim.validate.prediction import Predictor
from hispec_sim.validate.prompt_sets import check_alike, check_apart, paired_sequences, prompt_sets, set_in_turn
from hispec_sim.validate.strata import Stratum, drawn, evenly_drawn, first_of, shared_out, strata_of

PROMPTS = '{{"prompt": "{0} 1", "topic": "{0}"}}\n{{"prompt": "{0} 2", "topic": "{0}"}}\n'


def trace(*prompts: tuple[str, str]) -> AgreementTrace:
    """A sequence of two tokens for each prompt: its text and group."""
    shape = NetworkSpec("n", 2, 4, 1, 1, 4, 4, 9)
    hashes = sha256([text for text, _ in prompts])
    names = tuple(Prompt("", group, sha, 2) for sha, (_, group) in zip(hashes, prompts, strict=True))
    labels, starts = np.zeros((2 * len(names), 2), np.uint8), np.arange(len(names) + 1) * 2
    exits = (Exit("n", 1), Exit("n", 2))
    return AgreementTrace((shape,), exits, labels, starts, names, OffPath.none(2, sampled=False), None, {})


def test_a_trace_for_each_set() -> None:
    """Requests of two sets in turn; the second trace's sequences follow the first's in the joined one."""
    traces = [trace(("a", "x"), ("b", "y")), trace(("c", "z"), ("d", "z"), ("e", "z"))]
    first, second = strata_of(["p", "q", "p", "r", "p", "q"], 2, traces)
    assert (list(first.requests), first.groups, list(first.sequences)) == ([0, 2, 4], 1, [0, 1])
    assert (list(second.requests), second.groups, list(second.sequences)) == ([1, 3, 5], 2, [2, 3, 4])


def test_one_trace_for_all_sets() -> None:
    found = strata_of(["p", "q", "p", "r"], 2, [trace(("a", "x"), ("b", "y"))])
    assert [list(each.requests) for each in found] == [[0, 2], [1, 3]]
    assert [list(each.sequences) for each in found] == [[0, 1], [0, 1]]


def test_a_look_at_the_first_requests_shares_out_evenly_too() -> None:
    """Three of six requests in two runs have all six sequences once, where the first three of all would not."""
    strata, recorded = [Stratum(range(6), 3, range(6))], trace(*((letter, letter) for letter in "abcdef"))
    fits = Configuration((1,), 1, (), Bonus.ON_MISMATCH, 1, 2)
    assert [len(each.requests) for each in first_of([*strata, Stratum([7], 1, [0])], 3)] == [3]
    found = evenly_drawn(first_of(strata, 3), recorded, fits, 2, np.random.default_rng(0))
    assert sorted(found[0] + found[1]) == list(range(6))
    assert first_of(strata, None) == [replace(strata[0], requests=list(range(6)))]


def test_requests_are_drawn_within_their_stratum() -> None:
    """Every sequence of a stratum comes up, none of another; one that is too short is refused."""
    strata = [Stratum([0, 2], 2, [0, 1]), Stratum([1, 3], 1, [2])]
    recorded = trace(("a", "x"), ("b", "y"), ("c", "z"))
    fits, long = (Configuration((1,), 1, (), Bonus.ON_MISMATCH, 1, tokens) for tokens in (2, 3))
    found = np.array([drawn(strata, recorded, fits, np.random.default_rng(seed)) for seed in range(50)])
    assert [set(column) for column in found.T.tolist()] == [{0, 1}, {2}, {0, 1}, {2}]
    with pytest.raises(InputError, match=r"no recorded text has 3 tokens \(the longest has 2\)"):
        drawn(strata, recorded, long, np.random.default_rng(0))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 60), st.integers(0, 99))
def test_all_have_an_even_share(sizes: list[int], number: int, seed: int) -> None:
    """Groups come up equally often but for one, and so do the sequences of a group."""
    starts = np.cumsum([0, *sizes])
    groups = [list(range(starts[k], starts[k + 1])) for k in range(len(sizes))]
    found = Counter(shared_out(groups, number, np.random.default_rng(seed)))
    of_groups = [sum(found[sequence] for sequence in group) for group in groups]
    assert sum(of_groups) == number
    assert max(of_groups) - min(of_groups) <= 1
    assert all(max(counts) - min(counts) <= 1 for group in groups if (counts := [found[each] for each in group]))


def test_runs_together_have_every_sequence_of_their_stratum() -> None:
    """Two runs of two requests go round two groups twice: the group of two has either once, the other its one twice."""
    strata = [Stratum([0, 2], 2, [0, 1, 2]), Stratum([1, 3], 1, [3])]
    recorded = trace(("a", "x"), ("b", "x"), ("c", "y"), ("d", "z"))
    fits = Configuration((1,), 1, (), Bonus.ON_MISMATCH, 1, 2)
    for seed in range(20):
        runs = evenly_drawn(strata, recorded, fits, 2, np.random.default_rng(seed))
        assert all((run[1], run[3]) == (3, 3) for run in runs)
        assert sorted(run[k] for run in runs for k in (0, 2)) == [0, 1, 2, 2]


def test_sets_go_in_turn_and_are_shared_out_evenly(tmp_path: Path) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        file.write_text(PROMPTS.format(file.stem))
    names = ", ".join(map(str, files))
    sets = prompt_sets(names, Split.ALL, 4, 1)
    assert sets == prompt_sets(names, Split.ALL, 4, 2)
    assert [text.text for text in set_in_turn(sets)] == ["a 1", "b 1", "a 2", "b 2"]
    with pytest.raises(InputError, match="2 sets, which 3 prompts are not shared out among evenly"):
        prompt_sets(names, Split.ALL, 3, 1)
    with pytest.raises(InputError, match="given 3 times for the 2 sets"):
        prompt_sets(names, Split.ALL, 4, 3)


def test_paired_prompts_have_their_own_recording() -> None:
    recorded = trace(("b", "y"), ("a", "x"))
    texts = [Text("A", "x", "a"), Text("B", "y", "b")]
    assert paired_sequences(recorded, sha256(["a", "b"]), texts) == [1, 0]
    with pytest.raises(InputError, match="no recording of the prompt C"):
        paired_sequences(recorded, sha256(["c"]), [Text("C", "x", "c")])


@pytest.mark.parametrize(("text", "group"), [("a", "other"), ("other", "x")], ids=["the prompt", "its group"])
def test_a_trace_that_has_seen_a_prompt_is_refused(text: str, group: str) -> None:
    recorded = trace(("a", "x"))
    with pytest.raises(InputError, match=r"--trace t.trace was recorded on the prompt N or its group"):
        check_apart(recorded, [Text("N", group, text)], Path("t.trace"))
    check_apart(recorded, [Text("N", "other", "other")], Path("t.trace"))


def test_prompts_in_a_chat_template_are_other_prompts() -> None:
    """A trace that says how its prompts were encoded predicts requests that are encoded alike."""
    recorded = trace(("a", "x"))
    for said, asked, refused in ((True, False, "give --chat"), (False, True, "leave out --chat")):
        with pytest.raises(InputError, match=refused):
            check_alike(replace(recorded, provenance={"chat": said}), asked, Path("t.trace"))
        check_alike(replace(recorded, provenance={"chat": said}), said, Path("t.trace"))
    check_alike(replace(recorded, provenance={}), True, Path("t.trace"))


def test_no_two_purposes_share_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds padded with zeros are one: [seed, 0] and [seed, 0, 0] are the same stream, spawned ones never are."""
    streams: list[tuple[int, ...]] = []

    def recorded_rng(seed: np.random.SeedSequence) -> np.random.Generator:
        streams.append(tuple(seed.generate_state(4).tolist()))
        return np.random.Generator(np.random.PCG64(seed))

    recorded = trace(*((letter, letter) for letter in "abcdef"))
    profile = SimpleNamespace(network=recorded.networks[0], spread=lambda: None)
    cost = cast("NetworkCost", SimpleNamespace(profile=profile))
    strata, fits = [Stratum(range(3), 3, range(6))], Configuration((1,), 1, (), Bonus.ON_MISMATCH, 1, 2)
    predictor = Predictor(recorded, cost, [4] * 3, block_sizes=[3], strata=strata, paired=None, seed=0)
    monkeypatch.setattr(np.random, "default_rng", recorded_rng)
    for repetition in range(3):
        samplers = predictor.resampled(fits, repetition)
        for request in range(3):
            samplers(request)
        predictor.jitter(repetition)
    for samplers in predictor.even_samplers(fits):
        for request in range(3):
            samplers(request)
    assert len(streams) == 3 * (1 + 3 + 1) + 1 + 4 * 3
    assert len(set(streams)) == len(streams)
