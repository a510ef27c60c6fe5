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


KINDS = """
  tp: [2, 4, 8]
  draft: [first, second, third]
  exit_4: [0.3, 0.4, 0.5]
  nd: [2, 3, 4, 6]
  ni: [4, 6, 8]
"""


def drafts(*, with_exits: str) -> str:
    """Two single-layer policies and two hierarchies that share axes, as when drafts and exits are compared: 669 points,
    none of which is simulated here."""
    two = "- name: {0}\n    levels:\n      - {{network: ${1}, draft_length: $nd}}\n      - {{network: t, at: $tp}}\n"
    three = two.replace("at: $tp", "verify_period: $ni, at: $tp").replace("      - {{network: t, v", with_exits)
    policies = ["- name: autoregressive\n    levels: [{network: t, at: $tp}]\n"]
    policies += [two.format("draft", "draft"), two.format("exit", "exit_4")]
    policies += [three.format("draft + exit", "draft"), three.format("hispec", "exit_4")]
    head = text(KINDS + "  middle: [20, 30, 40]\n", "[nd <= ni]")
    return head[: head.index("policies:")] + "policies:\n  " + "  ".join(policies)


DRAFTS = drafts(with_exits="      - {{network: t, exit_layer: $middle}}\n      - {{network: t, v")


BESTS = {"autoregressive": 0.5, "draft": 1.0, "exit": 0.9, "draft + exit": 0.985, "hispec": 0.93}


def of_drafts(point: Point, good: dict[str, Any]) -> float:
    """Each axis apart from its good value costs a factor; a policy has one of its own."""
    factors = {"tp": 0.6, "draft": 0.93, "exit_4": 0.93, "nd": 0.96, "ni": 0.97, "middle": 0.95}
    value = BESTS[point.policy]
    for axis in point.part.axes:
        steps = abs(axis.values.index(point.values[axis.name]) - axis.values.index(good[axis.name]))
        value *= factors[axis.name] ** steps
    return value


GOOD = {"tp": 8, "draft": "third", "exit_4": 0.5, "nd": 4, "ni": 6, "middle": 30}


@pytest.mark.parametrize("good", [GOOD, {**GOOD, "tp": 2, "draft": "first", "exit_4": 0.3, "nd": 2, "middle": 40}])
def test_policies_with_common_axes_learn_from_one_another(tmp_path: Path, good: dict[str, Any]) -> None:
    """Five policies share 31 evaluations (without that, 7 and 9 of 20 searches end more than 1 % below the best)."""
    over = space(tmp_path, DRAFTS)
    assert len(over.points()) == 669
    missed = 0
    for seed in range(20):
        asked = search(over, lambda points: [of_drafts(point, good) for point in points], 31, seed)
        assert len(asked) == 31
        best = dict.fromkeys(BESTS, 0.0)
        for point in asked:
            best[point.policy] = max(best[point.policy], of_drafts(point, good))
        missed += max(best.values()) < 0.99
        assert max(best["draft + exit"], best["hispec"]) >= 0.93 * BESTS["draft + exit"]
    assert missed <= 2


def test_kinds_get_equal_shares_and_the_leader_of_each_most_of_it(tmp_path: Path) -> None:
    asked = search(space(tmp_path, DRAFTS), lambda points: [of_drafts(point, GOOD) for point in points], 63, 1)
    policies = [point.policy for point in asked]
    counts = {name: policies.count(name) for name in policies}
    assert counts["autoregressive"] == 3
    assert counts["draft"] + counts["exit"] == counts["draft + exit"] + counts["hispec"] == 30
    assert 10 <= counts["exit"] <= 13
    assert 10 <= counts["hispec"] <= 13


def test_axes_of_a_thousand_values_are_halved(tmp_path: Path) -> None:
    many = "\n  exit_4: [0.5]\n  nd: {from: 1, to: 1000}\n  ni: {from: 1, to: 1000}"
    over = space(tmp_path, text(many, "[]"))

    def hill(values: dict[str, Any]) -> float:
        return 1000 - abs(values["nd"] - 90) - abs(values.get("ni", 700) - 700)

    for seed in range(5):
        asked = search(over, objective(hill), 31, seed)
        for policy, least in (("early exit", 995), ("hispec", 940)):
            assert max(hill(dict(point.values)) for point in asked if point.policy == policy) >= least


def test_a_policy_begins_in_the_middle(tmp_path: Path) -> None:
    asked = search(space(tmp_path, content()), objective(smooth), 21, 1)
    first = next(point for point in asked if point.policy == "early exit")
    assert first.values["exit_4"] == pytest.approx(0.55)
    assert first.values["nd"] == 8
