"""Names of the columns of a sweep's table; an axis takes none of them."""

from __future__ import annotations

NAMING = ("point", "policy")
"""Before the axes."""
DESCRIBING = ("n_levels", "levels", "bonus", "concurrency", "prompt_tokens", "output_tokens", "repetitions")
"""Known before a point is evaluated."""
MEASURED = (
    "engine",
    *("tokens_per_s", "tokens_per_s_low", "tokens_per_s_high", "tpot_ms", "tpot_ms_low", "tpot_ms_high"),
    *("tokens_per_target_pass", "matched_per_drafted", "time_share", "forwards_per_round", "tokens_per_s_runs"),
)
"""What came of it."""
