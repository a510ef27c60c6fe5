"""One row of a latency profile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hispec_sim.errors import InputError
from hispec_sim.latency.ops import OPS, is_grid_op, is_step_op, is_token_op

Origin = Literal["measured", "derived"]
ORIGINS: tuple[str, ...] = ("measured", "derived")


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One point: `ms` milliseconds for one `op` on each GPU of a tensor-parallel group.

    A measured row may carry the 10th and 90th percentile over `repeats` runs; `ms` is then their median.
    Raises InputError when a value is outside what the format allows.
    """

    op: str
    tensor_parallel: int
    batch: int
    query_tokens: int
    context: int | None
    ms: float
    origin: Origin
    p10_ms: float | None = None
    p90_ms: float | None = None
    repeats: int | None = None

    def __post_init__(self) -> None:
        if not is_step_op(self.op) and not is_grid_op(self.op) and not is_token_op(self.op):
            numbered = (
                "lm_head_K (a shortlist of K tokens)",
                "exit_head_E (at exit layer E)",
                "repeat_L and silent_repeat_L (L layers again)",
                "verify_L (the target from layer L on, behind drafts)",
                "host_L and choose_L (behind L layers)",
            )
            known = ", ".join((*OPS, *numbered))
            raise InputError(f"column op: unknown op {self.op!r}; known ops are {known}")
        if self.origin not in ORIGINS:
            raise InputError(f"column origin: {self.origin!r} is not one of {', '.join(ORIGINS)}")
        for column in ("tensor_parallel", "batch", "query_tokens", "context", "repeats"):
            count = getattr(self, column)
            if count is not None and count < 1:
                raise InputError(f"column {column}: {count} must be a whole number of at least 1")
        for column in ("ms", "p10_ms", "p90_ms"):
            ms = getattr(self, column)
            if ms is not None and not (math.isfinite(ms) and ms > 0):
                raise InputError(f"column {column}: {ms} must be a finite time in milliseconds above 0")
        if is_grid_op(self.op) != (self.context is not None):
            rule = "needs a context of at least 1" if is_grid_op(self.op) else "takes no context: leave it empty"
            raise InputError(f"column context: op {self.op} {rule}")
        if is_token_op(self.op) and self.batch != 1:
            raise InputError(
                f"column batch: {self.batch} must be 1 for op {self.op}; its token count goes in query_tokens"
            )
        if (self.p10_ms is None) != (self.p90_ms is None):
            raise InputError("columns p10_ms and p90_ms: give both or leave both empty")
        if self.p10_ms is not None and self.p90_ms is not None and not self.p10_ms <= self.ms <= self.p90_ms:
            raise InputError(
                f"columns p10_ms, ms, p90_ms: must not decrease, got {self.p10_ms}, {self.ms}, {self.p90_ms}"
            )

    @property
    def point(self) -> tuple[str, int, int, int, int]:
        """What identifies the row and sorts the file: op, tensor_parallel, batch, query_tokens, context."""
        return (self.op, self.tensor_parallel, self.batch, self.query_tokens, self.context or 0)
