"""Which waiting requests share the device next: pure, so that simulator and executor batch alike.

Requests ask for one forward at a time. Those that ask for the same span of layers can run as one batch; requests
accept different numbers of tokens, so they drift apart and nothing here assumes lock-step.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

Request = TypeVar("Request")


class Span(NamedTuple):
    """Layers that a forward runs, as the cascade sees them: the level whose exit it reaches, and where it starts.

    Spans sort from shallow to deep.
    """

    reaches_level: int
    first_layer: int


class Grouping(StrEnum):
    """Which group of waiting requests the free device takes."""

    RUN_NOW = "run_now"  # the group that has waited longest, however small
    WAIT_TO_GROUP = "wait_to_group"  # the shallowest, so that deep verifications gather everyone


class Scheduler(Generic[Request]):
    """Groups the forwards that requests ask for into batches."""

    def __init__(self, grouping: Grouping = Grouping.WAIT_TO_GROUP) -> None:
        self._shallowest_first = grouping is Grouping.WAIT_TO_GROUP
        self._groups: dict[Span, list[Request]] = {}  # in the order in which their first request asked

    def ask(self, span: Span, request: Request) -> None:
        """The request waits for a forward through `span`."""
        if span in self._groups:
            self._groups[span].append(request)
        else:
            self._groups[span] = [request]

    def next_batch(self) -> list[Request]:
        """The requests to run together now, in the order in which they asked; empty when nobody waits."""
        groups = self._groups
        if len(groups) == 1:
            return groups.popitem()[1]
        if not groups:
            return []
        return groups.pop(min(groups) if self._shallowest_first else next(iter(groups)))
