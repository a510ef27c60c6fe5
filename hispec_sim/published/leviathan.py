"""Leviathan et al., equation 1: expected tokens per round, on a grid."""

from __future__ import annotations

from itertools import product

from hispec_sim.acceptance.models import Independent
from hispec_sim.cascade import Bonus
from hispec_sim.closed_forms import leviathan_tokens_per_round
from hispec_sim.published.bench import Bench, cascade_of
from hispec_sim.published.check import Check, Group

SOURCE = "arXiv 2211.17192 (Leviathan, Kalman, Matias: Fast Inference from Transformers, 2023), equation 1"
_ALPHAS, _DRAFT_LENGTHS = (0.3, 0.5, 0.7, 0.8, 0.9), (1, 2, 5, 10)
_DRAFT, _TARGET = "llama-3.2-1b", "llama-3.1-8b"
_STANDARD_ERRORS = 4.0
_LONGER = 5  # times the tokens; rounds cut short by the end of a request pull the mean down by 0.2 %
_ASSUMPTION = "independent acceptance, bonus always; the formula's own assumptions"
_EXPLANATION = "A defect: formula and simulator make the same assumptions."


def tokens_per_round() -> Group:
    """Equation 1 for five acceptance rates and four draft lengths."""
    return Group(
        "leviathan",
        "Leviathan et al., equation 1: tokens per round",
        f"{_STANDARD_ERRORS:g} standard errors of the simulated mean: one false alarm in 800 seeds for twenty points",
        "none: the formula leaves nothing open",
        "the formula",
        {"the formula": _checks},
    )


def _checks(bench: Bench) -> tuple[Check, ...]:
    checks = []
    costs = {name: bench.cost(name, 1) for name in (_DRAFT, _TARGET)}
    for alpha, length in product(_ALPHAS, _DRAFT_LENGTHS):
        cascade = cascade_of((_DRAFT, bench.n_layers(_DRAFT), 0), (_TARGET, bench.n_layers(_TARGET), length))
        run = bench.run(cascade, Independent((alpha,)), costs, longer=_LONGER)
        expected = leviathan_tokens_per_round(alpha, length, Bonus.ALWAYS)
        n_rounds = run.committed_tokens / run.tokens_per_target_pass
        tolerance = _STANDARD_ERRORS * _deviation(alpha, length) / expected / n_rounds**0.5
        name = f"tokens per round, alpha {alpha}, draft {length}"
        check = Check(
            name, SOURCE, expected, run.tokens_per_target_pass, tolerance, _ASSUMPTION, _EXPLANATION, detail=True
        )
        checks.append(check)
    worst = max(checks, key=lambda check: abs(check.error) / check.tolerance)
    summary = Check(
        f"worst of {len(checks)} points: {worst.name}",
        SOURCE,
        worst.published,
        worst.simulated,
        worst.tolerance,
        _ASSUMPTION,
        _EXPLANATION,
    )
    return (summary, *checks)


def _deviation(alpha: float, length: int) -> float:
    """Standard deviation of the tokens of a round: 1 + min(geometric, length)."""
    matched = [alpha**m * (1 - alpha) for m in range(length)] + [alpha**length]
    mean = sum(m * p for m, p in enumerate(matched))
    return float(sum(p * (m - mean) ** 2 for m, p in enumerate(matched)) ** 0.5)
