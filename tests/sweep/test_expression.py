"""Constraints: what the language means, and that nothing else is let in."""

from __future__ import annotations

import pytest

from hispec_sim.errors import InputError
from hispec_sim.sweep.expression import Expression


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("a < b", True),
        ("a < b < 3", False),
        ("a + 2 * b == 10 and not b < a", True),
        ("name in ('x', 'y')", True),
        ("min(a, b) >= 3 or name == 'z'", False),
        ("workload.concurrency % 2 == 0", True),
    ],
)
def test_a_condition_means_what_it_says(text: str, met: bool) -> None:
    assert Expression(text).holds({"a": 2, "b": 4, "name": "x", "workload.concurrency": 8}) is met


@pytest.mark.parametrize(
    "text", ["a <", "__import__('os')", "a.__class__()", "[x for x in (1, 2)]", "a ** b", "a if b else c", "f'{a}'"]
)
def test_nothing_else_is_let_in(text: str) -> None:
    with pytest.raises(InputError):
        Expression(text)


def test_values_that_cannot_be_compared_are_named() -> None:
    for text in ("a < name", "a / 0 > 1", "name * 9 == 'x'"):
        with pytest.raises(InputError, match="cannot be evaluated"):
            Expression(text).holds({"a": 2, "name": "x"})
