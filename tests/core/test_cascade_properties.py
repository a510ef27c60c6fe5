"""What holds for every cascade, whatever its levels agree on: tested on a model that watches each forward."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

import pytest
from fake_model import VOCABULARY, Decoder, FakeModel
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulated import LayerCost, cascade

from hispec_sim.cascade import Bonus, Cascade, Level, Outcome, Step, apply_outcome, next_step, start
from hispec_sim.errors import InputError
from hispec_sim.simulate.engine import Engine, RunLog
from hispec_sim.simulate.pricing import Pricer
from hispec_sim.step_graph import Node, StepGraph

thorough = settings(max_examples=250, deadline=None, derandomize=True)

NAMED = {
    "autoregressive": (("T", 5, 0),),
    "speculative": (("D", 2, 0), ("T", 5, 4)),
    "self-speculative": (("T", 2, 0), ("T", 5, 4)),
    "HiSpec": (("T", 1, 0), ("T", 2, 2), ("T", 5, 4)),
    "draft, exit, target": (("D", 2, 0), ("T", 2, 3), ("T", 5, 5)),
    "exit, draft, target": (("T", 1, 0), ("D", 2, 3), ("T", 5, 5)),
    "two networks in turn": (("D", 1, 0), ("T", 2, 2), ("D", 3, 5), ("T", 5, 9)),
    "two networks, nested": (("T", 1, 0), ("D", 2, 2), ("D", 3, 3), ("T", 5, 16)),
    "verify everything": (("T", 1, 0), ("T", 2, 1), ("T", 3, 1), ("T", 5, 1)),
}


@st.composite
def cascades(draw: st.DrawFn) -> Cascade:
    depth = dict.fromkeys("ABC", 0)
    levels = []
    for k, network in enumerate(draw(st.lists(st.sampled_from("ABC"), min_size=1, max_size=4))):
        depth[network] += draw(st.integers(1, 3))
        levels.append(Level(network, depth[network], draw(st.integers(1, 8 if k == 1 else 16)) if k else 0))
    return Cascade(tuple(levels), draw(st.sampled_from(Bonus)))


@st.composite
def decoders(draw: st.DrawFn) -> Decoder:
    decoded_with = draw(cascades())
    below = [draw(st.sampled_from((0.0, 0.3, 0.7, 0.9, 1.0))) for _ in decoded_with.levels[1:]]
    stop = draw(st.none() | st.integers(0, VOCABULARY - 1))
    return Decoder(
        decoded_with,
        FakeModel((*below, 1.0), draw(st.integers(0, 2**30)), stop),
        prompt=draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5)),
        max_new_tokens=draw(st.integers(1, 60)),
        prefill=draw(st.booleans()),
    )


def check(decoder: Decoder) -> None:
    """Lossless, to the exact length; and no work but what rollbacks explain (the decoder checks each step)."""
    committed = decoder.run()
    assert committed == decoder.model.decode_plainly(decoder.prompt, decoder.max_new_tokens)
    target = decoder.cascade.levels[-1]
    first = 0 if decoder.prefill else len(decoder.prompt) - 1
    for layer, place in product(range(target.exit_layer), range(first, len(decoder.text) - 1)):
        key = (target.network, layer, place)
        assert decoder.pushes[key] - decoder.rollbacks.get(key, 0) == 1
    last = len(decoder.text) - 1
    assert all(place < last for _, _, place in decoder.pushes.keys() - decoder.rollbacks.keys())


@thorough
@given(decoders())
def test_any_cascade_is_lossless_and_does_no_needless_work(decoder: Decoder) -> None:
    check(decoder)


@pytest.mark.parametrize("bonus", Bonus)
@pytest.mark.parametrize("name", NAMED)
def test_named_cascades(name: str, bonus: Bonus) -> None:
    decoded_with = cascade(*NAMED[name], bonus=bonus)
    for seed, agreement, stop, limit in product(range(2), (0.0, 0.6, 0.9, 1.0), (None, 7), (1, 2, 3, 40)):
        model = FakeModel([agreement] * (len(decoded_with.levels) - 1) + [1.0], seed, stop)
        check(Decoder(decoded_with, model, [1, 2, 3], limit, prefill=seed == 0))


@pytest.mark.parametrize("prefill", [True, False])
def test_autoregressive_decoding_is_one_forward_a_token(prefill: bool) -> None:
    decoder = Decoder(cascade(("T", 5, 0)), FakeModel((1.0,), seed=4), [1, 2, 3], 40, prefill)
    assert len(decoder.run()) == len(decoder.forwards) == 40
    first, *rest = decoder.forwards
    assert (first.tokens, first.position) == ((3, -3) if prefill else (1, -1))
    assert {(forward.tokens, forward.position, forward.logits) for forward in rest} == {(1, -1, 1)}


@pytest.mark.parametrize("bonus", Bonus)
@pytest.mark.parametrize("name", NAMED)
def test_the_largest_round_is_as_large_as_promised(name: str, bonus: Bonus) -> None:
    """The step graph takes more room than that for endless, so that it must be neither less nor much more."""
    graph = StepGraph(cascade(*NAMED[name], bonus=bonus))
    todo, known, largest = [graph.start(10**6)], set(), 0
    while todo:
        node = todo.pop()
        if node not in known:
            known.add(node)
            for matched in range(node.run + 1):
                move = graph.follow(node, matched if len(node.after) > 1 else 0)
                largest = max(largest, move.committed)
                assert move.target is not None
                todo.append(move.target)
    assert largest == graph.cascade.max_tokens_per_round


def guesses(seed: int) -> Iterator[float]:
    rng = random.Random(seed)
    while True:
        yield rng.choice((0.0, rng.random(), 1.0, 1.0))


class Scripted:
    """A sampler that answers with made-up outcomes."""

    def __init__(self, seed: int) -> None:
        self._guesses = guesses(seed)

    def draft(self, node: Node) -> None:
        pass

    def verify(self, node: Node) -> int:
        return round(next(self._guesses) * node.run)


def raw_steps(decoded_with: Cascade, limit: int, seed: int) -> list[tuple[Step, int]]:
    """Steps and committed tokens by the raw functions, with the outcomes that `Scripted(seed)` makes up."""
    script, state, steps = guesses(seed), start(decoded_with, limit), []
    while not state.finished:
        step = next_step(decoded_with, state)
        state = apply_outcome(decoded_with, state, Outcome(round(next(script) * step.run) if step.run else 0))
        steps.append((step, state.committed))
    return steps


def logged_steps(log: RunLog, request: int) -> list[tuple[Step, int]]:
    """The same from the engine's log."""
    steps, forwards = [], []
    for move, owner in zip(log.move, log.request, strict=True):
        if owner.index == request:
            node = move.source
            forwards.append(node.forward)
            if move.matched >= 0:
                steps.append((Step(node.level, tuple(forwards), node.run, node.bonus), move.committed))
                forwards = []
    assert not forwards
    return steps


@thorough
@given(cascades(), st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 2**30))
@example(cascade(("T", 1, 0)), [1], 1, 0)
def test_the_step_graph_takes_the_steps_of_the_raw_functions(
    decoded_with: Cascade, limits: list[int], concurrency: int, seed: int
) -> None:
    costs = dict.fromkeys("ABCT", LayerCost())
    engine = Engine(
        StepGraph(decoded_with),
        Pricer(costs, range(1, max(limits) + 2)),
        new_sampler=lambda index: Scripted(seed + index),
    )
    log = engine.run([(1, limit) for limit in limits], concurrency)
    for index, limit in enumerate(limits):
        assert logged_steps(log, index) == raw_steps(decoded_with, limit, seed + index)
        assert log.requests[index].room == 0


@thorough
@given(
    decoded_with=cascades(), limit=st.integers(1, 60), prompt=st.none() | st.integers(1, 9), seed=st.integers(0, 2**32)
)
def test_a_walk_with_stop_tokens_makes_the_same_forwards(
    decoded_with: Cascade, limit: int, prompt: int | None, seed: int
) -> None:
    """As the executor walks: a stop token may be the newest after any step; two requests share the graph."""
    graph = StepGraph(decoded_with)
    for request in range(2):
        rng = random.Random(seed + request)
        state, node, room = start(decoded_with, limit, prompt), graph.start(limit, prompt), limit
        while True:
            step, ran = next_step(decoded_with, state), [node.forward]
            while node.next_forward is not None:
                node = node.next_forward
                ran.append(node.forward)
            assert tuple(ran) == step.forwards
            assert (node.level, node.run, node.bonus) == (step.level, step.run, step.bonus)
            outcome = Outcome(rng.randint(0, step.run), ended=rng.random() < 0.05)
            state = apply_outcome(decoded_with, state, outcome)
            move = graph.follow(node, outcome.matched, ended=outcome.ended)
            assert move.committed == state.committed
            assert (move.target is None) == state.finished
            if move.target is None:
                break
            room, node = room - move.committed, move.target
            if move.committed and room < graph.ample_room:
                node = graph.with_room(node, room)


def test_a_node_of_a_walked_graph_prints_on_a_screen() -> None:
    """Every node leads to every other: printing what comes after what comes after would not end."""
    graph = StepGraph(cascade(*NAMED["HiSpec"]))
    node = graph.start(100)
    move = graph.follow(node, 0)
    assert len(repr(node)) + len(repr(move)) < 4000
    assert "after=" not in repr(node)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((), "at least one level"),
        ((("T", 4, 0), ("T", 4, 2)), "must grow"),
        ((("T", 0, 0),), "above 0"),
        ((("T", 4, 2), ("T", 8, 2)), "level 0 drafts"),
        ((("T", 4, 0), ("T", 8, 0)), "at least 1"),
    ],
)
def test_what_is_no_cascade_is_refused(levels: tuple[tuple[str, int, int], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cascade(*levels)


def test_impossible_lengths_and_outcomes_are_refused() -> None:
    two = cascade(("T", 1, 0), ("T", 2, 1))
    with pytest.raises(InputError, match="max_new_tokens"):
        start(two, 0)
    with pytest.raises(InputError, match="prompt_tokens"):
        start(two, 1, prompt_tokens=0)
    drafted = apply_outcome(two, start(two, 5), Outcome())
    for matched in (-1, 2):
        with pytest.raises(ValueError, match="run of 1"):
            apply_outcome(two, drafted, Outcome(matched))
