"""The points of a sweep: each policy over the axes that it uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hispec_sim.errors import InputError
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.sweep.axes import MAX_POINTS, combinations
from hispec_sim.sweep.expression import Expression
from hispec_sim.sweep.load import Sweep
from hispec_sim.sweep.part import Part, Values, part_of


@dataclass(frozen=True, slots=True)
class Point:
    """One place of the design space: a policy and the values of the axes that it uses."""

    part: Part
    values: Values

    @property
    def policy(self) -> str:
        """Name of the policy."""
        return self.part.policy

    def scenario(self) -> LoadedScenario:
        """The scenario of this point, its policy alone. Raises InputError."""
        return self.part.scenario(self.values)

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.values.items())
        return f"{self.policy} ({values})" if values else self.policy


class Space:
    """The design space of a sweep. Raises InputError for a sweep without policies, or an axis that none uses."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        policies = sweep.source.data.get("policies")
        if not isinstance(policies, list) or not policies or not all(isinstance(policy, dict) for policy in policies):
            raise sweep.source.fail(("policies",), "a sweep varies a list of policies; its base has none")
        self.parts = tuple(part_of(sweep, index, policy) for index, policy in enumerate(policies))
        names = [part.policy for part in self.parts]
        for name in names:
            if names.count(name) > 1:
                raise sweep.source.fail(("policies",), f"two policies are named {name!r}; names must differ")
        used = {axis.name for part in self.parts for axis in part.axes}
        for axis in sweep.axes:
            if axis.name not in used:
                raise sweep.source.fail(("axes", axis.name), f"no policy uses the axis {axis.name}")

    @property
    def size(self) -> int:
        """Combinations before any constraint."""
        return sum(part.size for part in self.parts)

    def points(self) -> list[Point]:
        """All points, not yet checked against the schema. Raises InputError for a space empty or too large."""
        found: list[Point] = []
        for part in self.parts:
            before = len(found)
            for point in self._points(part):
                found.append(point)
                if len(found) > MAX_POINTS:
                    raise self.sweep.source.fail(
                        ("axes",),
                        f"the axes span {self.size:,} combinations, and more than {MAX_POINTS:,} of them meet the "
                        "constraints; take fewer values, constrain them, or look for the best with --search",
                    )
            if len(found) == before:  # a sweep without the policy would answer another question
                raise self.no_point_of(part)
        return found

    def part(self, policy: str) -> Part:
        """The part of a policy. Raises InputError for a policy that the sweep does not have."""
        for part in self.parts:
            if part.policy == policy:
                return part
        raise InputError(f"{self.sweep.path} has no policy {policy!r}")

    def no_point_of(self, part: Part) -> InputError:
        """The error that a policy has no points, naming the constraint that leaves none if one alone does."""
        cure = "loosen it, or leave that policy out"
        for index, constraint in enumerate(self.sweep.constraints):
            if constraint in part.constraints and _nothing(part, constraint):
                return self.sweep.source.fail(
                    ("constraints", index), f"no point of policy {part.policy!r} meets {constraint.text!r}; {cure}"
                )
        return self.sweep.source.fail(
            ("constraints",),
            f"no point of policy {part.policy!r} meets all constraints together; they contradict one another",
        )

    def _points(self, part: Part) -> Iterator[Point]:
        try:
            for values in part.combinations():
                yield Point(part, values)
        except InputError as error:
            raise self.sweep.source.fail(("axes",), str(error)) from None


def _nothing(part: Part, constraint: Expression) -> bool:
    """Whether no combination meets this constraint, as far as can be tried."""
    try:
        return next(combinations(part.axes, [constraint], part.fixed), None) is None
    except InputError:
        return False
