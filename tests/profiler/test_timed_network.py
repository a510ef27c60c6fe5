"""Where forwards become CUDA graphs, what is timed is replays: no capture, and nothing that runs eagerly before one."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.exits import Kind as HeadKind
from hispec_sim.models.exits import attach, new_head
from hispec_sim.models.graphs import Graphs
from hispec_sim.models.llama import Llama
from hispec_sim.profiler import forwards, selfcheck
from hispec_sim.profiler.bench import open_bench
from hispec_sim.profiler.clock import WallClock
from hispec_sim.profiler.forwards import Kind
from hispec_sim.profiler.moments import AnyMoment
from hispec_sim.profiler.plan import Grid
from hispec_sim.profiler.selfcheck import Ranges, SelfCheck, Times
from hispec_sim.profiler.timed_network import TimedNetwork

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("execute", "models"))
from replaying import Replaying, give_graphs
from tiny_networks import networks

T = TypeVar("T")
GRID = Grid(4, (1, 2), (1, 2), (8, 80), head_exits=(2,), shortlists=(4,), cascades=2, draft_exits=(2,))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "WARM_MS", 0.0)
    monkeypatch.setattr(selfcheck, "PROMPTS", 1)


def network() -> Llama:
    """Four layers with a block head at the second."""
    made = copy.deepcopy(networks()["big"])
    return attach(made, {2: new_head(HeadKind.BLOCK, made)}).requires_grad_(False)


def unheld(graphs: Sequence[Graphs]) -> int:
    """How many runs were no replays of what was held already."""
    return sum(each.unheld for each in graphs)


def watch(monkeypatch: pytest.MonkeyPatch, graphs: Sequence[Graphs]) -> list[int]:
    """How many such runs there were in each timed piece of work, from now on."""
    seen: list[int] = []
    whole = WallClock.timed

    def timed(self: WallClock, work: Callable[[], T]) -> tuple[float, T]:
        before = unheld(graphs)
        found = whole(self, work)
        seen.append(unheld(graphs) - before)
        return found

    monkeypatch.setattr(WallClock, "timed", timed)
    return seen


def test_scenes_of_a_measurement_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first timed forward on, though more forms than a decode holds come by in turn; rows of drafts, which are
    timed by the loop, once the bench is open."""
    capture = Replaying()
    graphs = give_graphs(monkeypatch, capture, 3)
    seen = watch(monkeypatch, graphs)
    bench = open_bench(network(), GRID, WallClock(), (2,), 0)
    opened = capture.captured
    for episode in GRID.episodes():
        before = unheld(graphs)
        assert bench.play(episode)
        if episode.kind in (Kind.PASS, Kind.SHORTLIST, Kind.DRAFTS):
            assert unheld(graphs) == before, episode
    assert len(seen) > 100
    assert set(seen) == {0}
    assert opened > 30
    assert all(len(each) > 3 for each in graphs)


def test_forwards_and_decodes_of_a_check_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Replaying()
    graphs = give_graphs(monkeypatch, capture, 3)
    seen, in_measured = watch(monkeypatch, graphs), []

    class Watching(AnyMoment):
        def measure(self, run: Callable[[], T], *others: Any) -> T:
            before = unheld(graphs)
            found = run()
            in_measured.append(unheld(graphs) - before)
            return found

    letters = SimpleNamespace(encode=lambda text: [ord(letter) % 24 for letter in text])
    model: Any = SimpleNamespace(network=network(), tokenizer=letters, name="reference")
    times: Times = {}
    SelfCheck(model, Ranges((1, 2), 8, 120, (2,)), moments=Watching()).play_all(times)
    assert len(times) > 4
    assert len(seen) > 48
    assert set(seen) == {0}
    assert in_measured[1:] == [0] * 4, "two cascades, of one prompt and of two; forwards are made ready between others"
    assert capture.replayed > 500


def test_on_a_cpu_nothing_runs_but_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    whole = CachedNetwork.forward

    def forward(self: CachedNetwork, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> Any:
        ran.append(len(pieces))
        return whole(self, first_layer, last_layer, pieces)

    monkeypatch.setattr(CachedNetwork, "forward", forward)
    open_bench(network(), GRID, WallClock(), (2,), 0)
    assert ran == [1, 1, 2, 2], "caches of 80 tokens are filled, 64 at once"
    cached = TimedNetwork(network(), slots=1, max_tokens=8, exits=())
    cached.settle("work", pytest.fail)
    cached.settle_forward(0, 4, [Piece(0, 0, 1, 1, [1])])
    cached.launch_singly()
    assert len(ran) == 4
    assert (cached.captures, cached.replays) == (False, False)


def test_work_runs_until_it_replays_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    give_graphs(monkeypatch, Replaying(), 3)
    cached, runs = TimedNetwork(network(), slots=1, max_tokens=100, exits=()), []

    def run(at: int) -> None:
        runs.append(at)
        cached.forward(0, 4, [Piece(0, at, 1, 1, [1])])

    cached.settle("a", lambda: run(5))
    assert runs == [5] * 4, "two eager runs, one that captures, one that replays"
    cached.settle("a", lambda: run(5))
    assert len(runs) == 4
    cached.settle("the same form", lambda: run(6))
    assert runs[4:] == [6]
    cached.launch_singly()
    assert cached.captures
    assert not cached.replays
