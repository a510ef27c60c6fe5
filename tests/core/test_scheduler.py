"""Who shares the device next: the two groupings, order, ragged batches, and that nobody starves."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import HISPEC, LayerCost, cascade, simulate

from hispec_sim.acceptance.models import Independent
from hispec_sim.cascade import Bonus
from hispec_sim.scheduler import Grouping, Scheduler, Span
from hispec_sim.simulate.engine import RunLog
from hispec_sim.simulate.metrics import member_forward

SHALLOW, MIDDLE, DEEP = Span(0, 0), Span(1, 4), Span(2, 8)


def batches(grouping: Grouping, asks: list[tuple[Span, str]]) -> list[str]:
    scheduler: Scheduler[str] = Scheduler(grouping)
    for span, request in asks:
        scheduler.ask(span, request)
    found = []
    while batch := scheduler.next_batch():
        found.append("".join(batch))
    return found


def test_run_now_takes_the_group_that_has_waited_longest() -> None:
    asks = [(DEEP, "a"), (SHALLOW, "b"), (MIDDLE, "c"), (SHALLOW, "d"), (DEEP, "e")]
    assert batches(Grouping.RUN_NOW, asks) == ["ae", "bd", "c"]


def test_wait_to_group_takes_the_shallowest_group() -> None:
    asks = [(DEEP, "a"), (SHALLOW, "b"), (MIDDLE, "c"), (SHALLOW, "d"), (DEEP, "e")]
    assert batches(Grouping.WAIT_TO_GROUP, asks) == ["bd", "c", "ae"]
    assert batches(Grouping.WAIT_TO_GROUP, [(Span(1, 4), "a"), (Span(1, 0), "b")]) == ["b", "a"]


def test_a_group_that_has_run_queues_anew() -> None:
    scheduler: Scheduler[str] = Scheduler(Grouping.RUN_NOW)
    scheduler.ask(SHALLOW, "a")
    scheduler.ask(DEEP, "b")
    assert scheduler.next_batch() == ["a"]
    scheduler.ask(SHALLOW, "a")
    scheduler.ask(DEEP, "c")
    assert scheduler.next_batch() == ["b", "c"]
    assert scheduler.next_batch() == ["a"]
    assert scheduler.next_batch() == []


@settings(deadline=None, derandomize=True)
@given(st.sampled_from(Grouping), st.lists(st.sampled_from((SHALLOW, MIDDLE, DEEP)), max_size=12))
def test_everybody_who_asks_runs_once_with_those_of_the_same_span(grouping: Grouping, spans: list[Span]) -> None:
    scheduler: Scheduler[int] = Scheduler(grouping)
    for i, span in enumerate(spans):
        scheduler.ask(span, i)
    ran: list[int] = []
    while batch := scheduler.next_batch():
        assert batch == sorted(batch)  # in the order in which they asked
        assert len({spans[i] for i in batch}) == 1
        assert len(batch) == spans.count(spans[batch[0]])  # all who could join
        ran += batch
    assert sorted(ran) == list(range(len(spans)))


def run(grouping: Grouping, bonus: Bonus = Bonus.ON_MISMATCH, n: int = 6, tokens: int = 300) -> RunLog:
    return simulate(
        cascade(*HISPEC, bonus=bonus),
        Independent((0.7, 0.9)),
        [(10, tokens)] * n,
        seed=4,
        concurrency=n,
        grouping=grouping,
        cost=LayerCost(),
    )


@pytest.mark.parametrize("grouping", Grouping)
@pytest.mark.parametrize("bonus", Bonus)
def test_a_batch_is_one_span_and_may_be_ragged(grouping: Grouping, bonus: Bonus) -> None:
    log = run(grouping, bonus)
    members: dict[int, list[int]] = {}
    for member, forward in enumerate(member_forward(log)):
        members.setdefault(forward, []).append(member)
    ragged = 0
    for group in members.values():
        assert len({log.move[i].source.span for i in group}) == 1
        assert len({log.request[i].index for i in group}) == len(group)
        ragged += len({log.move[i].source.forward.tokens for i in group}) > 1
    assert ragged > 20


def test_requests_drift_apart() -> None:
    log = run(Grouping.WAIT_TO_GROUP)
    assert len({request.end_ms for request in log.requests}) > 3
    assert min(log.batch_size) < max(log.batch_size) == len(log.requests)


def test_wait_to_group_gathers_everyone_for_the_target() -> None:
    log = run(Grouping.WAIT_TO_GROUP)
    first_end = min(i for i, move in enumerate(log.move) if move.target is None)
    forward_of = member_forward(log)
    sizes = [log.batch_size[forward_of[i]] for i in range(first_end) if log.move[i].committed]
    assert set(sizes) == {len(log.requests)}  # as long as none has finished

    now = run(Grouping.RUN_NOW)
    assert len(now.batch_size) > len(log.batch_size)  # fuller batches, fewer forwards


@pytest.mark.parametrize("bonus", Bonus)
@pytest.mark.parametrize("grouping", Grouping)
def test_nobody_starves(grouping: Grouping, bonus: Bonus) -> None:
    """A request waits for each other group once (run_now), or for the slowest to come round (wait_to_group)."""
    log = run(grouping, bonus)
    patience = log.cascade.max_tokens_per_round * 3 if grouping is Grouping.WAIT_TO_GROUP else len(log.requests)
    places: dict[int, list[int]] = {}
    for member, forward in enumerate(member_forward(log)):
        places.setdefault(log.request[member].index, []).append(forward)
    for own in places.values():
        assert max(after - before for before, after in pairwise(own)) <= patience
    commits = Counter(request.index for request, move in zip(log.request, log.move, strict=True) if move.committed)
    assert max(commits.values()) < 1.3 * min(commits.values())
    assert all(request.room == 0 for request in log.requests)
