"""One comparison of a published number with ours, and the readings under which it was made.

A paper leaves things open: a bonus rule, a draft length, what a rate means. A reading settles all of them; a group
holds the checks of one table or figure under every reading. Which reading a group `stated` was fixed before anything
was simulated: what the paper says where it says something, else its defaults. The best-fitting one is found by
looking, and is labelled so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hispec_sim.errors import InputError

if TYPE_CHECKING:
    from hispec_sim.published.bench import Bench


@dataclass(frozen=True, slots=True)
class Check:
    """A published number beside the simulated one.

    `tolerance` bounds the relative error, or the difference where `absolute`. `assumption` is what carries the most
    weight in the simulated number, `explanation` what a miss would mean. A `detail` backs up the other rows of its
    group (a point of a curve): it is written, not printed.
    """

    name: str
    source: str
    published: float
    simulated: float
    tolerance: float
    assumption: str
    explanation: str
    absolute: bool = False
    detail: bool = False

    def __post_init__(self) -> None:
        if not all(map(np.isfinite, (self.published, self.simulated, self.tolerance))) or self.tolerance <= 0:
            raise ValueError(f"{self.name}: published, simulated and tolerance must be finite, tolerance above 0")

    @property
    def error(self) -> float:
        """Simulated against published: relative, or their difference where `absolute`."""
        difference = self.simulated - self.published
        return difference if self.absolute else difference / self.published

    @property
    def hit(self) -> bool:
        """Whether the error is within the tolerance."""
        return abs(self.error) <= self.tolerance


@dataclass(frozen=True, slots=True)
class Group:
    """The checks of one table or figure: a function for each reading, by the reading's name.

    `tolerance` says why the tolerances are what they are; `axes` what the parts of a reading's name mean.
    """

    key: str
    title: str
    tolerance: str
    axes: str
    stated: str
    readings: Mapping[str, Callable[[Bench], tuple[Check, ...]]]

    def __post_init__(self) -> None:
        if self.stated not in self.readings:
            raise ValueError(f"group {self.key}: the stated reading {self.stated!r} is not among its readings")


@dataclass(frozen=True, slots=True)
class Findings:
    """The checks of one group, by reading."""

    group: Group
    checks: Mapping[str, tuple[Check, ...]]

    def misfit(self, reading: str) -> float:
        """Mean over the printed checks of |error| / tolerance: below 1 they are hits on the whole."""
        return float(np.mean([abs(check.error) / check.tolerance for check in self.printed(reading)]))

    def printed(self, reading: str) -> list[Check]:
        """The checks of a reading that are not details."""
        return [check for check in self.checks[reading] if not check.detail]

    def hits(self, reading: str) -> int:
        """How many printed checks hit."""
        return sum(check.hit for check in self.printed(reading))

    @property
    def by_fit(self) -> list[str]:
        """The readings, best-fitting first."""
        return sorted(self.checks, key=self.misfit)

    @property
    def best(self) -> str:
        """The reading with the least misfit: chosen by looking, where `group.stated` was not."""
        return self.by_fit[0]

    @property
    def shown(self) -> list[str]:
        """The readings worth printing in full: the stated one, and the best-fitting one if it is another."""
        return list(dict.fromkeys((self.group.stated, self.best)))


def run_group(group: Group, bench: Bench, tick: Callable[[], None] = lambda: None) -> Findings:
    """All readings of a group; `tick` is called after each."""
    checks = {}
    for name, run in group.readings.items():
        checks[name] = run(bench)
        tick()
    return Findings(group, checks)


def pick_groups(groups: tuple[Group, ...], keys: list[str]) -> tuple[Group, ...]:
    """The groups named by `keys`, all if there are none. Raises InputError for a key that is not there."""
    known = {group.key: group for group in groups}
    for key in keys:
        if key not in known:
            raise InputError(f"no published check {key!r}; there are {', '.join(known)}")
    return tuple(group for group in groups if not keys or group.key in keys)
