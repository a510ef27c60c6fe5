"""Prompts that the caches hold already."""

from __future__ import annotations

import pytest
from tiny_networks import networks

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Greedy
from hispec_sim.execute.decoder import Decoder
from hispec_sim.models.cache import CachedNetwork

PROMPTS = [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]]


@pytest.mark.parametrize("bonus", Bonus)
def test_the_text_is_that_behind_a_prefill(bonus: Bonus) -> None:
    """Decoding writes behind the prompt only, so the same caches serve again."""
    caches = CachedNetwork(networks()["big"], slots=2, max_tokens=40, exits=[2])
    decoder = Decoder(Cascade((Level("n", 2), Level("n", 4, 3)), bonus), {"n": caches}, slots=2, max_tokens=40)

    def decoded(**how: bool) -> list[list[int]]:
        return decoder.decode(PROMPTS, 20, new_chooser=lambda index: Greedy(), **how)[0]

    first = decoded(prefill_first=True)
    assert decoded(prefilled=True) == first
    with pytest.raises(InputError, match="3 prompts cannot stand in the caches of 2 slots already"):
        decoder.decode([*PROMPTS, [1]], 20, new_chooser=lambda index: Greedy(), prefilled=True)
