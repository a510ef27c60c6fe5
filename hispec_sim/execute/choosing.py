"""How tokens are chosen from logits, and how a verifier judges tokens that another level chose.

Greedy: a token matches if it is the verifier's own first choice. Sampling: speculative rejection (Leviathan et al.
2023, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318) at every level: a token drawn from q is accepted by a
verifier of distribution p with probability min(1, p/q), and replaced by a draw from (p - q)+ otherwise, which makes
what the verifier holds a sample of p, ready to be judged by the level above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hispec_sim.errors import InputError
from hispec_sim.models.picking import distributions_of, drawn, first_choices

Distribution = NDArray[np.float32]
"""Probabilities of a vocabulary, in the memory of the host, which judges."""


@dataclass(slots=True)
class Token:
    """A tentative token: its id, the level that chose it, and the distribution it is a sample of (sampling only)."""

    token_id: int
    level: int
    distribution: Distribution | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a level makes of a run: how many tokens matched, and its own token behind them, if it adds one."""

    matched: int
    own: Token | None


class Chooser(Protocol):
    """Chooses and judges for one sequence."""

    def judge(self, level: int, logits: Tensor, run: Sequence[Token], *, bonus: bool) -> Verdict:
        """The verdict on a run of tokens; `logits` has a row for each, and one more for the bonus token.

        An empty run with a bonus is drafting: the verdict's own token is the level's choice.
        """
        ...


class Greedy:
    """The most likely token, always."""

    def judge(self, level: int, logits: Tensor, run: Sequence[Token], *, bonus: bool) -> Verdict:
        choices = first_choices(logits)
        matched = 0
        while matched < len(run) and run[matched].token_id == choices[matched]:
            matched += 1
        own = Token(choices[matched], level) if matched < len(run) or bonus else None
        return Verdict(matched, own)


class Sampling:
    """Tokens drawn at a temperature from the smallest set that holds `top_p` of the probability."""

    def __init__(self, temperature: float, top_p: float, rng: np.random.Generator) -> None:
        if not temperature > 0:
            raise InputError(f"temperature must be above 0, got {temperature}; for 0 decode greedily")
        if not 0 < top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {top_p}")
        self._temperature = temperature
        self._top_p = top_p
        self._rng = rng

    def judge(self, level: int, logits: Tensor, run: Sequence[Token], *, bonus: bool) -> Verdict:
        # A judgement looks at single probabilities, each of which would wait for a device; and NumPy's calls cost less.
        distributions = distributions_of(logits, self._temperature, self._top_p).cpu().numpy()
        for place, token in enumerate(run):
            p, q = distributions[place], token.distribution
            assert q is not None
            if self._rng.random() * q.item(token.token_id) >= p.item(token.token_id):
                left = np.maximum(p - q, 0)
                # Rounded, p and q can differ at this token alone, by a last digit: then nothing is left to draw from.
                return Verdict(place, Token(drawn(left if left.any() else p, self._rng), level, p))
            token.distribution = p  # accepted, the token is a sample of p
        if not bonus:
            return Verdict(len(run), None)
        last = distributions[len(run)]
        return Verdict(len(run), Token(drawn(last, self._rng), level, last))
