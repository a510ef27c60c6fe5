"""The keys that a sweep file has beside those of the scenario it varies."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from hispec_sim.scenario.schema import Name

Scalar = bool | int | float | str
Number = int | float


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class RangeSpec(_Strict):
    """Evenly spaced numbers, both ends included where the step meets them."""

    first: Annotated[Number, Field(alias="from")]
    last: Annotated[Number, Field(alias="to")]
    step: Annotated[Number, Field(gt=0)] = 1

    @model_validator(mode="after")
    def _rises(self) -> RangeSpec:
        if self.last < self.first:
            raise ValueError(f"the range from {self.first} to {self.last} is empty")
        return self


def _kind(values: object) -> str:
    return "range" if isinstance(values, dict | RangeSpec) else "list"


ValuesSpec = Annotated[Annotated[list[Scalar], Tag("list")] | Annotated[RangeSpec, Tag("range")], Discriminator(_kind)]


class VerifySpec(_Strict):
    """Which points the event-driven engine repeats after the screening."""

    leading: Annotated[int, Field(ge=0, le=10_000)] = 10
    """The fastest points."""
    random: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Points drawn at random from the rest."""


class SweepSpec(_Strict):
    """A design space: a base scenario, and axes whose values take its keys' place."""

    name: Name
    description: str = ""
    base: str
    """Scenario file, relative to this file. Every further key of a scenario that stands here replaces the base's:
    mappings are joined key by key, all else is replaced whole."""
    axes: Annotated[dict[str, ValuesSpec], Field(min_length=1)]
    """What varies. An axis is a parameter of the base, a key such as workload.concurrency, or a word of your own that
    stands as $word where its values belong."""
    constraints: list[str] = []
    """Conditions that a point must meet, for example draft_exit < intermediate_exit. One that names an axis which a
    policy does not use says nothing about that policy."""
    verify: VerifySpec = VerifySpec()
