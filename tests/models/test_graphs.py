"""Captured forwards give what eager ones give. There is no GPU here: `replaying` stands in for graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from replaying import Replaying
from torch import Tensor

from hispec_sim.models import graphs
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.exits import Kind, attach, new_head
from hispec_sim.models.graphs import BUCKET, CAPTURED_WHEN_MET, Graphs, Recorded, Work, rounded
from hispec_sim.models.llama import Llama
from hispec_sim.models.places import Form
from hispec_sim.networks import NetworkSpec

VOCABULARY, DEPTH, SLOTS, ROOM = 24, 4, 3, 150
CPU = torch.device("cpu")


def network(heads: bool) -> Llama:
    torch.manual_seed(3)
    made = Llama(LlamaConfig(NetworkSpec("tiny", DEPTH, 32, 4, 2, 8, 48, VOCABULARY, True), max_positions=ROOM)).eval()
    attach(made, {2: new_head(Kind.BLOCK, made)} if heads else {})
    return made.requires_grad_(False)


def random_forwards(rng: np.random.Generator, number: int) -> Iterator[tuple[int, int, list[Piece]]]:
    """Texts that grow and are rolled back: prompts first, then one to three tokens for some of the slots, either
    to the exit and on from there or through all layers at once."""
    lengths = rng.integers(20, 60, SLOTS)
    text = rng.integers(0, VOCABULARY, (SLOTS, ROOM))
    yield 0, 2, [Piece(s, 0, int(lengths[s]), 1, text[s, : lengths[s]].tolist()) for s in range(SLOTS)]
    yield 2, DEPTH, [Piece(s, 0, int(lengths[s]), 1) for s in range(SLOTS)]
    for _ in range(number):
        slots = sorted(rng.choice(SLOTS, int(rng.integers(1, SLOTS + 1)), replace=False).tolist())
        new = {slot: int(rng.integers(1, 4)) for slot in slots}
        for slot in slots:
            lengths[slot] = min(lengths[slot] - int(rng.integers(0, 3)), ROOM - 4)
            text[slot, lengths[slot] :] = rng.integers(0, VOCABULARY, ROOM - lengths[slot])
        at = {slot: int(lengths[slot]) for slot in slots}
        first = [Piece(s, at[s], new[s], 1, text[s, at[s] : at[s] + new[s]].tolist()) for s in slots]
        if rng.random() < 0.3:
            yield 0, DEPTH, first
        else:
            yield 0, 2, first
            yield 2, DEPTH, [Piece(s, at[s], new[s], new[s]) for s in slots]
        for slot in slots:
            lengths[slot] += new[slot]


def cached(made: Llama, captured: Graphs | None) -> CachedNetwork:
    cache = CachedNetwork(made, slots=SLOTS, max_tokens=ROOM, exits=(2, DEPTH))
    cache._graphs = captured
    return cache


@pytest.mark.parametrize("most", [2, 64])
@pytest.mark.parametrize("heads", [False, True])
def test_replays_give_what_eager_forwards_give(heads: bool, most: int) -> None:
    """Over random sequences of forwards, with contexts in two buckets, few graphs held or many."""
    made, capture = network(heads), Replaying()
    held = Graphs(capture, CPU, most)
    eager, replaying = cached(made, None), cached(made, held)
    outputs = []
    for first, last, pieces in random_forwards(np.random.default_rng(most), 150):
        expected, given = (cache.forward(first, last, pieces) for cache in (eager, replaying))
        assert (expected is None) == (given is None)
        if expected is not None and given is not None:
            assert torch.equal(expected.argmax(-1), given.argmax(-1))
            torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
            outputs.append((expected, given))
        assert len(held) <= most
    assert capture.replayed > (20 if most == 2 else 150)
    for expected, given in outputs:  # results are the caller's own: later replays have not changed them
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_a_form_is_captured_once_into_buffers_that_stay() -> None:
    """The third meeting captures; from then on the same tensor holds the integers."""
    capture, seen = Replaying(), []

    def work(integers: Tensor) -> Tensor:
        seen.append(integers.data_ptr())
        return integers * 2

    held = Graphs(capture, CPU)
    for number in range(10):
        result = held.run("form", [number, 1], work)
        assert result is not None
        assert result.tolist() == [2 * number, 2]
        assert capture.captured == (number + 1 >= CAPTURED_WHEN_MET)
    assert len(set(seen[CAPTURED_WHEN_MET - 1 :])) == 1


def test_captures_are_bounded_when_forms_drive_each_other_out() -> None:
    """A dropped form must be met as often again; the one replayed longest ago goes."""
    capture = Replaying()
    held = Graphs(capture, CPU, most=2)

    def meet(key: str, times: int = CAPTURED_WHEN_MET) -> int:
        before = capture.captured
        for _ in range(times):
            held.run(key, [1], lambda integers: integers + 1)
        return capture.captured - before

    assert [meet("a"), meet("b"), meet("a", 1), meet("c")] == [1, 1, 0, 1]
    assert [meet("a", 5), meet("b", CAPTURED_WHEN_MET - 1), meet("b", 1)] == [0, 0, 1]
    assert len(held) == 2


def test_all_forms_are_held_where_there_is_no_bound() -> None:
    """Met in turn, a few forms more than are held are never captured, and a replay is the exception; unless all are
    held. `unheld` tells runs that are no replays."""
    runs = {}
    for most in (2, None):
        capture = Replaying()
        held = Graphs(capture, CPU, most)
        for _ in range(CAPTURED_WHEN_MET + 2):
            for key in "abcd":
                held.run(key, [1], lambda integers: integers + 1)
        runs[most] = (len(held), held.unheld - CAPTURED_WHEN_MET * 4)
    assert runs[None] == (4, 0)
    assert runs[2][0] == 2
    assert runs[2][1] > 0


def test_dropped_graphs_leave_the_same_work_to_be_done_eagerly() -> None:
    capture, seen = Replaying(), []

    def work(integers: Tensor) -> Tensor:
        seen.append(integers.tolist())
        return integers + 1

    held = Graphs(capture, CPU)
    for _ in range(CAPTURED_WHEN_MET):
        held.run("form", [1], work)
    before, unheld = (capture.captured, capture.replayed), held.unheld
    held.drop_all()
    for number in range(CAPTURED_WHEN_MET + 1):
        result = held.run("form", [number], work)
        assert result is not None
        assert (result.tolist(), seen[-1]) == ([number + 1], [number])
    assert (len(held), capture.captured, capture.replayed, held.unheld) == (0, *before, unheld)


def test_prompts_run_eagerly_in_their_own_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """More query tokens than a graph takes never reach the graphs."""
    monkeypatch.setattr(graphs.Graphs, "run", lambda *_: pytest.fail("a prompt reached the graphs"))
    made = network(False)
    cached(made, Graphs(Replaying(), CPU)).forward(0, DEPTH, [Piece(0, 0, 65, 1, [1] * 65)])


def test_a_failed_capture_warns_once_and_decoding_goes_on() -> None:
    """Graphs that are held still replay."""
    good = Replaying()
    fails = False

    def capture(work: Work) -> Recorded:
        if fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return good(work)

    held = Graphs(capture, CPU)
    run: Callable[[str], list[Tensor | None]] = lambda key: [  # noqa: E731
        held.run(key, [number], lambda integers: integers + 1) for number in range(5)
    ]
    run("held")
    fails = True
    with pytest.warns(
        UserWarning, match=r"CUDA graphs are off: .*\(operation not permitted when stream is capturing\)"
    ) as w:
        results = run("fails") + run("fails too")
    assert len(w) == 1
    assert [int(result) for result in results if result is not None] == [1, 2, 3, 4, 5] * 2
    before = good.replayed
    run("held")
    assert good.replayed == before + 5


@pytest.mark.parametrize(("context", "expected"), [(1, BUCKET), (BUCKET, BUCKET), (BUCKET + 1, 200)])
def test_contexts_are_rounded_up_within_the_cache(context: int, expected: int) -> None:
    assert rounded(Form(1, 1, 1, context, True), 200).context == expected
