"""The draft length that a fair baseline would use: the fastest by the closed form, at the profile's prices."""

from __future__ import annotations

from collections.abc import Sequence

from hispec_sim.cascade import Bonus
from hispec_sim.closed_forms import leviathan_tokens_per_round
from hispec_sim.latency.cost import NetworkCost

_CONTEXT = 1024


def tuned_draft_length(
    draft: NetworkCost, target: NetworkCost, draft_exit: int, alpha: float, bonus: Bonus, lengths: Sequence[int]
) -> int:
    """The fastest of `lengths` for two levels; both costs are the same object if they share one network."""
    shared = draft is target
    n_layers = target.profile.network.n_layers
    draft_ms = _ms(draft, 0, draft_exit, 1, 1)

    def ms_per_token(length: int) -> float:
        verified = length + (bonus is Bonus.ALWAYS)
        verify_ms = _ms(target, draft_exit if shared else 0, n_layers, verified, verified)
        if shared and bonus is Bonus.ALWAYS:
            verify_ms += _ms(target, 0, draft_exit, 1, 0)  # the newest token has not been through the draft's layers
        return (length * draft_ms + verify_ms) / leviathan_tokens_per_round(alpha, length, bonus)

    return min(lengths, key=ms_per_token)


def _ms(cost: NetworkCost, first_layer: int, last_layer: int, tokens: int, logits: int) -> float:
    return float(
        cost.forward_ms(
            first_layer=first_layer, last_layer=last_layer, batch=1, tokens=tokens, logits=logits, context=_CONTEXT
        )
    )
