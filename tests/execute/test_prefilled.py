"""Prompts that the caches hold already."""

from __future__ import annotations

import copy

import pytest
from tiny_networks import networks

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.execute import prompt_caches
from hispec_sim.execute.choosing import Greedy
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.prompt_caches import PromptCaches, prefill
from hispec_sim.models.cache import CachedNetwork
from hispec_sim.models.exits import Kind, attach, new_head
from hispec_sim.models.llama import Llama

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


def with_blocks() -> Llama:
    """A network with exit heads that have caches."""
    network = copy.deepcopy(networks()["big"])
    return attach(network, {exit_layer: new_head(Kind.BLOCK, network) for exit_layer in (1, 2)})


@pytest.mark.parametrize("bonus", Bonus)
def test_prompts_are_prefilled_once_for_all_cascades(bonus: Bonus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is the same, and so is the work but for the prefill; a prompt is prefilled again once it was dropped."""
    network, prefilled = with_blocks(), list[int]()
    monkeypatch.setattr(
        prompt_caches,
        "prefill",
        lambda cached, slot, tokens, depths: prefilled.append(len(tokens)) or prefill(cached, slot, tokens, depths),
    )
    kept = PromptCaches(network, [1, 2], keep=2)
    for exits in ([], [1], [2], [1, 2]):
        periods = (0, 2, 4)[: len(exits) + 1]
        levels = tuple(Level("n", e, n) for e, n in zip((*exits, 4), periods, strict=True))
        found = []
        for caches in ({}, {"n": kept}):
            decoder = Decoder(Cascade(levels, bonus), {"n": network}, slots=2, max_tokens=40)
            found.append(
                decoder.decode(
                    PROMPTS, 20, new_chooser=lambda index: Greedy(), prefill_first=True, prompt_caches=caches
                )
            )
        (alone, record), (copied, same) = found
        assert copied == alone
        assert [each.forwards for each in same.sequences] == [each.forwards for each in record.sequences]
        kept.run_last(PROMPTS[0][:-1])
    assert prefilled == [len(prompt) - 1 for prompt in PROMPTS]
    for prompt in ([5, 5, 5], PROMPTS[0][:-1], PROMPTS[1][:-1]):
        kept.fill(CachedNetwork(network, slots=1, max_tokens=40, exits=[1]), 0, prompt)
    assert prefilled == [5, 5, 3, 5], "the prompt that was used last is kept, the other was dropped"


def test_an_exit_that_is_not_known_is_refused() -> None:
    network = networks()["big"]
    with pytest.raises(KeyError):
        PromptCaches(network, [1], keep=1).fill(CachedNetwork(network, slots=1, max_tokens=9, exits=[2]), 0, [1, 2])
