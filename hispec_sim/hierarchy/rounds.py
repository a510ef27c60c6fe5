"""Milliseconds per committed token in closed form, for whole arrays of agreements at once.

The renewal argument of `closed_forms`, with what a map needs besides: levels that are right together, and verifications
that cost more the more tokens they carry. It is exact for the simulator's `Correlated` model as long as what the middle
exit accepts behind a token does not depend on whether the target will accept that token, which is how `Agreement.model`
sets it. The tests hold it against the simulator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hispec_sim.cascade import Bonus
from hispec_sim.hierarchy.agreement import Agreement, Array
from hispec_sim.hierarchy.prices import Prices


@dataclass(frozen=True, slots=True)
class HiSpecRound:
    """A verify period's means over rounds, by point: committed tokens; `visits[s]`: P(the middle exit verifies when s
    tokens are tentatively accepted), for each s below the period; `run[i]`: P(the target verifies `verify_period` + i
    tokens)."""

    verify_period: int
    tokens: Array
    visits: list[Array]
    run: list[Array]


def single_ms_per_token(accept: Array, prices: Prices, exit_depth: int, draft_length: int, bonus: Bonus) -> Array:
    """Single-layer speculation from depth 1 (draft) or 2 (middle) of `prices`."""
    always = bonus is Bonus.ALWAYS
    tokens = sum((accept**i for i in range(draft_length + always)), np.zeros_like(accept))
    return (
        _drafting(prices, exit_depth, draft_length, place=1)
        + _verifying(prices, exit_depth, 3, draft_length, always, place=1 + draft_length)
    ) / tokens


def hispec_ms_per_token(
    levels: Agreement, prices: Prices, draft_length: int, bonus: Bonus, longest: int
) -> list[Array]:
    """HiSpec with one draft length, for the verify periods 1 to `longest`."""
    always = bonus is Bonus.ALWAYS

    def runs(tentative: int) -> int:
        """How often at least the middle exit has run (`step_graph.Node.in_row`)."""
        return -(-tentative // (draft_length + always))

    def cycle(tentative: int) -> float:
        """Drafts and their verification, when so many tokens are tentatively accepted."""
        place = 2 if tentative else 1
        return _drafting(prices, 1, draft_length, place=place) + _verifying(
            prices, 1, 2, draft_length, always, place=place + draft_length, in_row=runs(tentative) + 1
        )

    cycles = [cycle(tentative) for tentative in range(longest)]
    finals = [
        _verifying(prices, 2, 3, tentative, always, place=runs(tentative) + 1)
        for tentative in range(1, longest + draft_length + always)
    ]
    found = []
    for each in hispec_rounds(levels, draft_length, bonus, longest):
        middle = sum(chance * ms for chance, ms in zip(each.visits, cycles, strict=False))
        final = sum(chance * ms for chance, ms in zip(each.run, finals[each.verify_period - 1 :], strict=False))
        found.append((middle + final) / each.tokens)
    return found


def hispec_rounds(levels: Agreement, draft_length: int, bonus: Bonus, longest: int) -> Iterator[HiSpecRound]:
    """Rounds of the verify periods 1 to `longest`.

    A verification by the middle exit gains j tokens with probability gain[j]; kept[j] is that probability times the
    chance that the target will accept all j. `visits[s]` is the chance that a round's tentative tokens ever number s,
    and `alive[s]` that they do and the target will accept them all: two renewal sequences. From every s below the
    verify period one more gain is drawn.
    """
    always = bonus is Bonus.ALWAYS
    x, q = levels.confirms, levels.if_replaced
    zero = np.zeros_like(x)
    gain, kept = [zero.copy() for _ in range(draft_length + 2)], [zero.copy() for _ in range(draft_length + 2)]
    for k in range(draft_length):  # k confirmed, then one replaced
        gain[k + 1] += x**k * (1 - x)
        kept[k + 1] += levels.draft**k * (1 - x) * q
    gain[draft_length + always] += x**draft_length
    own = levels.middle if always else 1.0
    kept[draft_length + always] += levels.draft**draft_length * own
    # Tokens of one gain that the target will accept, counted up to the first that it will not.
    accepted = sum((levels.draft**k * (levels.draft + (1 - x) * q) for k in range(draft_length)), zero)
    if always:
        accepted = accepted + levels.draft**draft_length * levels.middle
    all_kept = sum(kept, zero)

    visits, alive = [np.ones_like(x)], [np.ones_like(x)]
    for period in range(1, longest + 1):
        expected_alive = sum(alive, zero)
        # Those alive below the period leave it or arrive at another place below it; one has begun at 0.
        all_matched = expected_alive * all_kept - (expected_alive - 1)
        correction = 1.0 if always else 1 - all_matched
        run = [
            sum((visits[s] * gain[t - s] for s in range(max(0, t - draft_length - 1), period)), zero)
            for t in range(period, period + draft_length + always)
        ]
        yield HiSpecRound(period, expected_alive * accepted + correction, visits[:period], run)
        reach = range(max(0, period - draft_length - 1), period)
        visits.append(sum((visits[s] * gain[period - s] for s in reach), zero))
        alive.append(sum((alive[s] * kept[period - s] for s in reach), zero))


def _drafting(prices: Prices, depth: int, length: int, *, place: int) -> float:
    """Drafts in a row from this place on."""
    return sum(prices.ms(0, depth, 1, in_row=place + k) for k in range(length))


def _verifying(
    prices: Prices, below: int, depth: int, tokens: int, always: bool, *, place: int, in_row: int | None = None
) -> float:
    """A verification of `tokens` tokens; for its bonus token the newest goes through the layers below first, at this
    place of their row."""
    if not always:
        return prices.ms(below, depth, tokens, in_row=in_row)
    return prices.ms(0, below, 1, read_out=False, in_row=place) + prices.ms(below, depth, tokens + 1, in_row=in_row)
