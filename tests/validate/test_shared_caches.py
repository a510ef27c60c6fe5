"""Where forwards become CUDA graphs, the runs of a campaign replay them."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from hispec_sim.cascade import Bonus
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.prompt_caches import PromptCaches
from hispec_sim.profiler import forwards
from hispec_sim.validate.decoding import observe
from hispec_sim.validate.design import Configuration
from hispec_sim.validate.shared_caches import SharedCaches

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("execute", "models"))
from replaying import Replaying, give_graphs
from tiny_networks import networks

PROMPTS = [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10]]
CONFIGURATIONS = [
    Configuration((), 1, (), Bonus.ON_MISMATCH, 1, 12),
    Configuration((1,), 3, (), Bonus.ALWAYS, 2, 12),
    Configuration((1, 3), 2, (4,), Bonus.ON_MISMATCH, 2, 8),
]


def test_runs_replay_what_was_captured_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same texts as with caches of their own; what is timed is a decode that captured nothing."""
    monkeypatch.setattr(forwards, "WARM_MS", 0.0)
    network = networks()["big"]
    own = [observe(each, 0, network, PROMPTS[: each.batch]).text_sha256 for each in CONFIGURATIONS]
    capture = Replaying()
    graphs = give_graphs(monkeypatch, capture, 2)
    shared = SharedCaches(network, (1, 3), 24)
    assert shared.of(2) is shared.of(2) is not None
    prompt_caches, in_decode = PromptCaches(network, (1, 3), keep=2), list[int]()
    whole = Decoder.decode

    def decode(self: Decoder, *given: Any, **named: Any) -> Any:
        before = sum(each.unheld for each in graphs)
        found = whole(self, *given, **named)
        in_decode.append(sum(each.unheld for each in graphs) - before)
        return found

    monkeypatch.setattr(Decoder, "decode", decode)
    for repeat, (each, text) in product(range(2), zip(CONFIGURATIONS, own, strict=True)):
        run = observe(each, repeat, network, PROMPTS[: each.batch], prompt_caches=prompt_caches, shared=shared)
        assert run.text_sha256 == text
        assert in_decode[-1] == 0, "what was observed is the last"
        assert len(in_decode) == 1 if repeat else in_decode[0] > 0
        in_decode.clear()
    assert capture.captured > 5


def test_on_a_cpu_a_run_has_caches_of_its_own() -> None:
    assert SharedCaches(networks()["big"], (1,), 24).of(1) is None
