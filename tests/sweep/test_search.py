"""Search: it finds what a grid would, asks nothing twice, and shares its evaluations out among the policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sweep_files import space, text

from hispec_sim.errors import InputError
from hispec_sim.sweep.search import search
from hispec_sim.sweep.space import Point

AXES = """
  exit_4: {from: 0.3, to: 0.8, step: 0.05}
  nd: {from: 1, to: 16}
  ni: {from: 2, to: 24}
  rule: [always, on_mismatch]
"""


def smooth(values: dict[str, Any]) -> float:
    """Largest at exit_4 = .55, nd = 7, ni = 12, rule always."""
    hill = 100 - 400 * (values["exit_4"] - 0.55) ** 2 - 0.2 * (values["nd"] - 7) ** 2
    return hill - 0.05 * (values.get("ni", 20) - 12) ** 2 - 5 * (values.get("rule") == "on_mismatch")


def content(constraints: str = "[nd <= ni]") -> str:
    return text(AXES, constraints).replace("- name: hispec", "- name: hispec\n    bonus: $rule")


def objective(function: Callable[[dict[str, Any]], float]) -> Callable[[Sequence[Point]], list[float]]:
    def of(points: Sequence[Point]) -> list[float]:
        return [function(dict(point.values)) if point.values else 1.0 for point in points]

    return of


@pytest.mark.parametrize("seed", [1, 2])
def test_the_best_is_found_with_few_evaluations(tmp_path: Path, seed: int) -> None:
    over = space(tmp_path, content())
    points = over.points()
    asked = search(over, objective(smooth), 200, seed)
    hispec = [point for point in asked if point.policy == "hispec"]
    best = max(smooth(dict(point.values)) for point in points if point.policy == "hispec")
    assert len(asked) == 200 < 0.05 * len(points)
    assert max(smooth(dict(point.values)) for point in hispec) >= 0.99 * best


def test_few_evaluations_are_learned_from(tmp_path: Path) -> None:
    """With 10 for a policy of thousands of points, steps beside the best lead up the hill (random ones come to 95)."""
    over = space(tmp_path, content())
    best = []
    for seed in range(1, 7):
        asked = [point for point in search(over, objective(smooth), 21, seed) if point.policy == "hispec"]
        assert len(asked) == 10
        best.append(max(smooth(dict(point.values)) for point in asked))
    assert sum(best) / len(best) >= 97


def test_nothing_is_asked_twice_nor_against_constraints(tmp_path: Path) -> None:
    asked = search(space(tmp_path, content()), objective(smooth), 120, 1)
    keys = [(point.policy, *point.values.items()) for point in asked]
    assert len(set(keys)) == len(keys) == 120
    assert all(point.values["nd"] <= point.values["ni"] for point in asked if point.policy == "hispec")


def test_the_same_seed_asks_for_the_same(tmp_path: Path) -> None:
    over = space(tmp_path, content())
    first, again, other = (
        [(point.policy, point.values) for point in search(over, objective(smooth), 60, seed)] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_each_policy_gets_its_share(tmp_path: Path) -> None:
    asked = search(space(tmp_path, content()), objective(smooth), 101, 1)
    policies = [point.policy for point in asked]
    assert {name: policies.count(name) for name in policies} == {"autoregressive": 1, "early exit": 50, "hispec": 50}


def test_a_small_space_is_searched_whole(tmp_path: Path) -> None:
    over = space(tmp_path)
    assert len(search(over, objective(lambda values: 1.0), 1000, 1)) == len(over.points())


def test_a_space_without_points_is_told(tmp_path: Path) -> None:
    only = content("[nd > ni + 100]")
    only = only[: only.index("policies:")] + "policies:\n  - " + only[only.index("name: hispec") :]
    with pytest.raises(InputError, match=r"no point of policy 'hispec' meets 'nd > ni \+ 100'"):
        search(space(tmp_path, only), objective(smooth), 20, 1)
