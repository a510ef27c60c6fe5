"""Student's t, for intervals that few values have to tell."""

from __future__ import annotations

Z = 1.959963984540054
"""Standard normal quantile at 97.5 %: of an interval of 95 %."""


def student_t(free: int) -> float:
    """The quantile of Student's t at 97.5 % with `free` degrees of freedom, at least 1; from 4 on by Hill's expansion,
    within 0.3 % (Hill 1970, Communications of the ACM 13:619)."""
    if free < 4:
        return (12.706, 4.303, 3.182)[free - 1]
    first = (Z**3 + Z) / 4
    second = (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    third = (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384
    return Z + first / free + second / free**2 + third / free**3
