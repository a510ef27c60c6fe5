"""A cascade's acceptance from one number per level: how often the target predicts what that level predicts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hispec_sim.acceptance.models import Correlated, LevelAgreement
from hispec_sim.errors import InputError


def chain(target_accepts: Sequence[float], differed_over_agreed: float = 1.0) -> Correlated:
    """Levels in a chain. `target_accepts[k]` is P(the target accepts what level k predicts), draft first.

    With p = P(a level accepts | the level below had confirmed the token) it accepts what the level below had replaced
    with q = `differed_over_agreed` * p; 1 makes the levels independent. From the top: the level below the target is
    right with x p + (1 - x) q, the one below that with x p, where x is how often the two agree; then x takes the
    target's place. p is cut at 1, where not all marginals can be had. Raises InputError unless they rise in (0, 1].
    """
    if any(below > above for below, above in pairwise((*target_accepts, 1.0))) or min(target_accepts, default=1) <= 0:
        given = ", ".join(f"{share:g}" for share in target_accepts)
        raise InputError(
            f"the target accepts {given} of what the levels below it predict, draft first; these must lie above 0 "
            "and rise to at most 1: a level that knows less than the level below it has nothing to verify"
        )
    kappa = differed_over_agreed
    if not 0 < kappa <= 1:
        raise InputError(f"differed_over_agreed must be above 0 and at most 1, got {kappa!r}")
    shares = list(target_accepts)
    agreement: list[LevelAgreement] = []
    while len(shares) > 1:
        agreed = min(1.0, (shares[-1] - shares[-2] * (1 - kappa)) / kappa)
        agreement.append(LevelAgreement(agreed, kappa * agreed, agreed))
        shares = [min(1.0, share / agreed) for share in shares[:-1]]
    agreement += [LevelAgreement(share, share, share) for share in shares]
    return Correlated(tuple(reversed(agreement)))
