"""How often the target accepts the tokens of HiSpec's draft and intermediate exits, as far as the paper tells.

It tells two shares for Llama-2-70B on ShareGPT (in the text: 39.7 % from layer 10 alone, 58.1 % with layer 20
between) and one per network and dataset (Fig. 4: layer L/4). The two disagree: Fig. 4 has 42.4 % for layer 20 on
ShareGPT. Hence three readings:

- text, matched_per_drafted: the text's shares are accepted tokens over drafted ones, converted to probabilities for
  the draft length and verify period in use, and scaled to other networks and datasets in proportion to Fig. 4;
- text, per token: the same shares taken as probabilities;
- Fig. 4, per token: its share is the intermediate's probability; the draft's is lower in the text's proportion.
"""

from __future__ import annotations

from hispec_sim.cascade import Bonus
from hispec_sim.published.conversion import per_token_from_matched, target_accept_from_matched
from hispec_sim.published.data import published_table, published_value

ACCEPTANCES = ("text, matched_per_drafted", "text, per token", "Fig. 4, per token")
_TEXT_NETWORK, _TEXT_DATASET = "llama-2-70b", "sharegpt"
_MOST = 0.98  # no share is scaled beyond this


def fig4_share(network: str, dataset: str) -> float:
    """Share of the tokens predicted at a quarter of the depth that the full network accepts."""
    rows = published_table("hispec_fig4").rows
    return next(float(row["acceptance"]) for row in rows if (row["network"], row["dataset"]) == (network, dataset))


def acceptance_of(
    network: str, dataset: str, acceptance: str, draft_length: int, verify_period: int, bonus: Bonus
) -> tuple[float, float]:
    """P(the target accepts a token of the draft exit), P(... of the intermediate exit), by one of `ACCEPTANCES`."""
    alone = published_value("hispec_text", "llama-2-70b_sharegpt_exit10_acceptance")
    between = published_value("hispec_text", "llama-2-70b_sharegpt_exit10_20_acceptance")
    share = fig4_share(network, dataset)
    if acceptance == ACCEPTANCES[2]:
        return share * alone / between, share
    scale = min(share / fig4_share(_TEXT_NETWORK, _TEXT_DATASET), _MOST / between)
    alone, between = alone * scale, between * scale
    if acceptance == ACCEPTANCES[1]:
        return alone, between
    draft = per_token_from_matched(alone, draft_length)
    return draft, target_accept_from_matched(between, draft, draft_length, verify_period, bonus)
