"""States of a cascade are thought out once in a process, not for every text anew."""

from __future__ import annotations

import pytest
from tiny_networks import networks

from hispec_sim import step_graph
from hispec_sim.cascade import Bonus, Cascade, Level, State, Step, next_step
from hispec_sim.execute.choosing import Greedy
from hispec_sim.execute.decoder import Decoder

CASCADE = Cascade((Level("n", 1), Level("n", 3, 2), Level("n", 4, 5)), Bonus.ALWAYS)


def test_the_same_text_again_meets_no_new_state(monkeypatch: pytest.MonkeyPatch) -> None:
    thought_out: list[State] = []

    def counted(cascade: Cascade, state: State) -> Step:
        thought_out.append(state)
        return next_step(cascade, state)

    def decoded() -> list[list[int]]:
        decoder = Decoder(CASCADE, {"n": networks()["big"]}, slots=1, max_tokens=60)
        return decoder.decode([[3, 1, 4, 1, 5]], 30, new_chooser=lambda index: Greedy())[0]

    monkeypatch.setattr(step_graph, "next_step", counted)
    step_graph.shared_graph.cache_clear()
    first = decoded()
    met = len(thought_out)
    assert met > 5
    assert decoded() == first
    assert len(thought_out) == met
