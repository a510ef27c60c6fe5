"""What every run's log must satisfy, whoever is being simulated."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from simulated import DRAFT_EXIT_TARGET, HISPEC, TellingCost, cascade, simulate

from hispec_sim.acceptance.models import Independent
from hispec_sim.cascade import Bonus, Outcome, apply_outcome, next_step, start
from hispec_sim.scheduler import Grouping
from hispec_sim.simulate.engine import RunLog
from hispec_sim.simulate.metrics import measure, member_forward

LENGTHS = ((7, 40), (30, 1), (12, 90), (3, 2), (50, 33), (8, 64), (9, 17))
CASES = list(product((HISPEC, DRAFT_EXIT_TARGET), Bonus, (1, 3, 7, 20), Grouping))


def run(levels: tuple[tuple[str, int, int], ...], bonus: Bonus, concurrency: int, grouping: Grouping) -> RunLog:
    model = Independent((0.75, 0.85), clustering=0.3)
    return simulate(cascade(*levels, bonus=bonus), model, LENGTHS, seed=11, concurrency=concurrency, grouping=grouping)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0][0][0]}-{case[1]}-{case[2]}-{case[3]}")
def log(request: pytest.FixtureRequest) -> RunLog:
    return run(*request.param)


def test_every_request_gets_exactly_its_output_tokens(log: RunLog) -> None:
    committed = [0] * len(LENGTHS)
    for move, owner in zip(log.move, log.request, strict=True):
        committed[owner.index] += move.committed
    assert committed == [output for _, output in LENGTHS]
    assert measure(log).committed_tokens == sum(committed)
    for request, (prompt, output) in zip(log.requests, LENGTHS, strict=True):
        assert (request.prompt_tokens, request.output_tokens) == (prompt, output)
        assert (request.context, request.room) == (prompt + output, 0)


def test_the_log_is_consistent(log: RunLog) -> None:
    assert len(log.duration_ms) == len(log.batch_size)
    assert len(log.move) == len(log.request) == sum(log.batch_size)
    assert min(log.duration_ms) > 0
    assert [request.index for request in log.requests] == list(range(len(LENGTHS)))
    of_request: dict[int, list[int]] = {}
    for member, owner in enumerate(log.request):
        of_request.setdefault(owner.index, []).append(member)
    for members in of_request.values():
        for before, after in pairwise(members):
            target, source = log.move[before].target, log.move[after].source
            assert target is not None
            if target is not source:  # near the length limit a round starts with less room than its graph assumed
                assert log.move[before].committed
                assert source.state == replace(target.state, room=source.state.room)
                assert source.state.room < target.state.room
        assert log.move[members[-1]].target is None


def test_time_is_the_sum_of_all_forwards(log: RunLog) -> None:
    """A closed loop never idles; requests start and end on the boundaries of forwards that are theirs."""
    ends_ms = np.cumsum(log.duration_ms)
    forward_of = member_forward(log)
    last = {owner.index: forward_of[member] for member, owner in enumerate(log.request)}
    for request in log.requests:
        assert request.end_ms == pytest.approx(ends_ms[last[request.index]], rel=1e-12)
        assert 0 <= request.start_ms < request.end_ms
    metrics = measure(log)
    assert metrics.duration_ms == pytest.approx(ends_ms[-1]) == max(request.end_ms for request in log.requests)
    assert sum(metrics.time_share) == pytest.approx(1.0)
    assert metrics.tpot_ms == pytest.approx(
        np.mean([(request.end_ms - request.start_ms) / request.output_tokens for request in log.requests])
    )


def test_never_more_than_concurrency_requests_at_a_time() -> None:
    for concurrency in (1, 3):
        log = run(HISPEC, Bonus.ALWAYS, concurrency, Grouping.RUN_NOW)
        for moment in (request.start_ms for request in log.requests):
            assert sum(request.start_ms <= moment < request.end_ms for request in log.requests) <= concurrency
        assert max(log.batch_size) <= concurrency


@pytest.mark.parametrize("bonus", Bonus)
@pytest.mark.parametrize("levels", [HISPEC, DRAFT_EXIT_TARGET])
def test_alone_on_the_device_each_forward_costs_what_it_would_by_itself(
    levels: tuple[tuple[str, int, int], ...], bonus: Bonus
) -> None:
    """Replay the logged outcomes with the raw functions and price every forward by hand."""
    log = run(levels, bonus, 1, Grouping.WAIT_TO_GROUP)
    outcomes = iter([move.matched for move in log.move if move.matched >= 0])
    priced: list[float] = []
    for prompt, output in LENGTHS:
        state = start(log.cascade, output)
        while not state.finished:
            step = next_step(log.cascade, state)
            for forward in step.forwards:
                context = prompt + output - state.room + forward.position + forward.tokens  # tokens attended to
                ms = TellingCost().forward_ms(
                    first_layer=forward.first_layer,
                    last_layer=forward.last_layer,
                    batch=1,
                    tokens=forward.tokens,
                    logits=forward.logits,
                    context=np.array([context]),
                )
                priced.append(float(ms[0]))
            state = apply_outcome(log.cascade, state, Outcome(next(outcomes)))
    assert log.duration_ms == priced
    assert log.requests[-1].end_ms == pytest.approx(sum(priced), rel=1e-12)


def test_a_batch_is_priced_by_its_sums_and_its_mean_context() -> None:
    log = run(HISPEC, Bonus.ALWAYS, 3, Grouping.WAIT_TO_GROUP)
    context = [request.prompt_tokens for request in log.requests]
    members: dict[int, list[int]] = {}
    for member, forward in enumerate(member_forward(log)):
        members.setdefault(forward, []).append(member)
    for forward, group in members.items():
        nodes = [log.move[i].source for i in group]
        attended = [context[log.request[i].index] + node.reach for i, node in zip(group, nodes, strict=True)]
        ms = TellingCost().forward_ms(
            first_layer=nodes[0].forward.first_layer,
            last_layer=nodes[0].forward.last_layer,
            batch=len(group),
            tokens=sum(node.forward.tokens for node in nodes),
            logits=sum(node.forward.logits for node in nodes),
            context=np.array([sum(attended) // len(group)]),
        )
        assert log.duration_ms[forward] == float(ms[0])
        for i in group:
            context[log.request[i].index] += log.move[i].committed


def test_metrics_count_steps_and_tokens() -> None:
    """Full acceptance by hand: 2 x 2 drafts, two intermediate verifications, then the target's, for 4 tokens."""
    log = simulate(cascade(*HISPEC), Independent((1.0, 1.0)), [(5, 40)], seed=0)
    metrics = measure(log)
    assert metrics.tokens_per_target_pass == 4.0
    assert metrics.forwards_per_round == (4.0, 2.0, 1.0)
    assert np.isnan(metrics.matched_per_drafted[0])
    assert metrics.matched_per_drafted[1:] == (1.0, 1.0)
    corrected = measure(simulate(cascade(*HISPEC), Independent((0.0, 1.0)), [(5, 40)], seed=0))
    assert corrected.tokens_per_target_pass == 4.0
    # Each verification gains its correction only; just one token is drafted where just one may still be committed.
    assert corrected.forwards_per_round == (79 / 10, 4.0, 1.0)
    assert corrected.matched_per_drafted[1:] == (0.0, 1.0)


def test_results_do_not_depend_on_the_hash_seed() -> None:
    script = (
        "from test_engine_invariants import *; import hashlib;"
        "log = run(DRAFT_EXIT_TARGET, Bonus.ALWAYS, 3, Grouping.RUN_NOW);"
        "trace = [(o.index, m.source.forward, m.matched) for o, m in zip(log.request, log.move)];"
        "print(hashlib.sha256(repr((trace, log.duration_ms)).encode()).hexdigest())"
    )
    digests = set()
    for hash_seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=Path(__file__).parent, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1
