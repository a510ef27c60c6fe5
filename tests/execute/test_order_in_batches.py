"""Sequences of a batch go through the network in the order of their slots, in whatever order they asked."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_networks import VOCABULARY, networks

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.execute.choosing import Greedy
from hispec_sim.execute.decoder import Decoder
from hispec_sim.models import cache
from hispec_sim.models.places import Form, Piece


def test_all_slots_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences that drift apart ask in another order, for which their caches would be copied in every layer. And each
    gets its own logits: the text is that of decoding alone."""
    forms: list[tuple[list[int], Form]] = []

    def of(pieces: list[Piece], slots: int) -> Form:
        forms.append(([piece.slot for piece in pieces], Form.of(pieces, slots)))
        return forms[-1][1]

    class Told(Form):
        pass

    Told.of = staticmethod(of)  # type: ignore[method-assign]
    monkeypatch.setattr(cache, "Form", Told)
    rng, known = np.random.default_rng(2), networks()
    prompts = [rng.integers(0, VOCABULARY, length).tolist() for length in (3, 9, 5, 14, 7, 4)]
    cascade = Cascade((Level("big", 1), Level("big", 2, 2), Level("big", 4, 4)), Bonus.ALWAYS)
    order: list[int] = []
    together = Decoder(cascade, known, slots=4, max_tokens=40)
    outputs, _ = together.decode(
        prompts, 20, new_chooser=lambda index: Greedy(), on_commit=lambda index, tokens: order.append(index)
    )
    assert order != sorted(order)
    batched = [(slots, form) for slots, form in forms if len(slots) > 1]
    assert len(batched) > 20
    assert all(slots == sorted(slots) for slots, _ in batched)
    assert all(form.whole for slots, form in batched if len(slots) == 4)
    alone = [
        Decoder(cascade, known, slots=1, max_tokens=40).decode([p], 20, new_chooser=lambda index: Greedy())[0][0]
        for p in prompts
    ]
    assert outputs == alone
