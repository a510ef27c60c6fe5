"""The LM heads that come with the reference model: asked for by name, lossless, and right more often than its own."""

from __future__ import annotations

import torch

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.execute.generate import Settings, generate
from hispec_sim.models.exits import Kind, heads_of
from hispec_sim.models.loading import load_model
from hispec_sim.profiler.prompts import Split, prompt_set


def test_lm_heads_of_the_reference_model() -> None:
    """The model has none unless they are asked for; its text stays, its first three exits say it more often."""
    plain, model = load_model("reference"), load_model("reference", exit_heads="lm_heads")
    assert not heads_of(plain.network)
    assert {exit_layer: head.kind for exit_layer, head in heads_of(model.network).items()} == dict.fromkeys(
        (1, 2, 4), Kind.LM_HEAD
    )
    alone = Cascade((Level("target", 40),))
    hispec = Cascade((Level("target", 2), Level("target", 10, 3), Level("target", 40, 9)), Bonus.ALWAYS)
    right = {(with_heads, exit_layer): 0 for with_heads in (False, True) for exit_layer in (1, 2, 4)}
    for prompt in prompt_set("reference", Split.HELD_OUT)[::8]:
        ids = model.tokenizer.encode(prompt.text)
        text = generate(alone, {"target": plain.network}, ids, Settings(48)).token_ids
        assert generate(hispec, {"target": model.network}, ids, Settings(48)).token_ids == text
        whole = torch.tensor([[*ids, *text]])
        for with_heads, exit_layer in right:
            with torch.inference_mode():
                said = (model if with_heads else plain).network(whole[:, :-1], exit_layer)[0, len(ids) - 1 :].argmax(-1)
            right[with_heads, exit_layer] += int((said == whole[0, len(ids) :]).sum())
    for exit_layer in (1, 2, 4):
        assert right[True, exit_layer] > 1.02 * right[False, exit_layer]
