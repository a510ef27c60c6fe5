"""Search for the best point where the space is too big for a grid: which policy is asked for how many points.

Kinds of decoding (autoregressive, single-layer, hierarchy) get equal shares of the evaluations, since a recommendation
compares them: each is tuned as hard as the others. The simplest comes first, for what is good on an axis there mostly
is so in a hierarchy. Two thirds of a kind's share go to its policies alike, the rest to the one that leads. The same
seed asks for the same points, so an interrupted search runs again from what the store has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hispec_sim.report.recommendation import KINDS
from hispec_sim.sweep.part import Part
from hispec_sim.sweep.policy_search import PolicySearch, learned
from hispec_sim.sweep.recommend import kind_of
from hispec_sim.sweep.search_axis import Learned
from hispec_sim.sweep.space import Point, Space

_FOR_ALL = 2 / 3  # of a kind's evaluations: to its policies alike

Objective = Callable[[Sequence[Point]], Sequence[float]]
"""What is to be largest, for each of some points."""
Asked = tuple[PolicySearch, list[Point]]


def search(space: Space, objective: Objective, evaluations: int, seed: int) -> list[Point]:
    """Ask for at most so many points; returns them in the order of asking.

    Raises InputError when a policy has no point that meets the constraints, or none is found.
    """
    kinds = _kinds(space.parts, evaluations, seed)
    searches = [one for kind in kinds for one in kind.searches]
    asked: list[Point] = []

    def evaluate(batches: Sequence[Asked]) -> None:
        points = [point for _, batch in batches for point in batch]
        values = iter(objective(points))
        for one, batch in batches:
            one.tell([next(values) for _ in batch])
        asked.extend(points)

    for kind in kinds:
        for one in kind.searches:  # the smallest first: a larger one begins where those before it are best
            if kind.left:
                batch = kind.ask(one, kind.left, learned(searches))
                if not batch:
                    raise space.no_point_of(one.part)
                evaluate([(one, batch)])
        while batches := kind.turn(learned(searches)):
            evaluate(batches)
    return asked


class _Kind:
    """The policies of one kind of decoding; `left` is what remains of its evaluations."""

    def __init__(self, policies: Iterable[Part], evaluations: int, seed: int) -> None:
        parts = sorted(policies, key=lambda part: part.size)
        sizes = [part.size for part in parts]
        bases = _shares(sizes, round(_FOR_ALL * evaluations))
        if evaluations >= sum(sizes):
            bases = sizes
        fair = evaluations // len(parts)
        self.searches = [PolicySearch(part, base, fair, seed) for part, base in zip(parts, bases, strict=True)]
        self.left = evaluations

    def ask(self, one: PolicySearch, most: int, known: Learned) -> list[Point]:
        """New points of one policy; none when it is exhausted."""
        batch = one.ask(min(most, self.left), known)
        self.left -= len(batch)
        return batch

    def turn(self, known: Learned) -> list[Asked]:
        """New points of the policies whose turn it is; none when all is used up or exhausted.

        Behind the leader, one with less hope still tries what others have found to be good on an axis that it has.
        """
        while self.left and (able := [one for one in self.searches if not one.exhausted]):
            due = [(one, one.base - one.asked) for one in able if one.asked < one.base]
            if not due:
                leader = max(able, key=lambda one: one.best[0])
                due = [(one, 1) for one in able if one is not leader and one.advised(known)] + [(leader, self.left)]
            batches = [(one, batch) for one, most in due if (batch := self.ask(one, most, known))]
            if batches:
                return batches
        return []


def _kinds(parts: Sequence[Part], evaluations: int, seed: int) -> list[_Kind]:
    groups = [[part for part in parts if kind_of(part.n_levels) == kind] for kind in KINDS]
    shares = _shares([sum(part.size for part in group) for group in groups], evaluations)
    return [_Kind(group, share, seed) for group, share in zip(groups, shares, strict=True) if group]


def _shares(sizes: Sequence[int], evaluations: int) -> list[int]:
    """Equal shares, but to none more than its size; what is left goes to the larger ones."""
    shares = [0] * len(sizes)
    left = evaluations
    for done, index in enumerate(sorted(range(len(sizes)), key=lambda index: sizes[index])):
        shares[index] = min(sizes[index], left // (len(sizes) - done))
        left -= shares[index]
    return shares
