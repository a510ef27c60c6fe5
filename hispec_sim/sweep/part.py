"""One policy of a sweep, alone with what it needs: the axes and constraints that concern it, and its scenarios."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hispec_sim.errors import InputError, UnknownKeyError
from hispec_sim.scenario.load import LoadedScenario, resolve
from hispec_sim.scenario.schema import Parameter
from hispec_sim.scenario.yaml_source import Key, Source, put
from hispec_sim.sweep.axes import Axis, combinations, size
from hispec_sim.sweep.expression import Expression
from hispec_sim.sweep.load import Sweep
from hispec_sim.sweep.references import references, with_values

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A policy and its share of the design space. `fixed` are the named numbers that its constraints may use."""

    policy: str
    source: Source
    axes: tuple[Axis, ...]
    constraints: tuple[Expression, ...]
    parameters: Mapping[str, Parameter]
    fixed: Mapping[str, float]

    @property
    def size(self) -> int:
        """Combinations before any constraint."""
        return size(self.axes)

    @property
    def n_levels(self) -> int:
        """Levels of the policy's cascade; 0 where it has no list of them, which the check of its points tells."""
        levels = self.source.data["policies"][0].get("levels")
        return len(levels) if isinstance(levels, list) else 0

    def combinations(self) -> Iterator[dict[str, Any]]:
        """The values of every point. Raises InputError when more are tried than a sweep could hold."""
        return combinations(self.axes, self.constraints, self.fixed)

    def holds(self, values: Values) -> bool:
        """Whether a combination meets the constraints. Raises InputError when they cannot be evaluated."""
        return all(constraint.holds({**self.fixed, **values}) for constraint in self.constraints)

    def scenario(self, values: Values) -> LoadedScenario:
        """The policy's scenario at a point, its named parameters still varied by `with_parameter`.

        Raises InputError that names the point when the schema does not allow it.
        """
        data = with_values(self.source.data, values)
        for axis in self.axes:
            if axis.key is not None:
                put(data, axis.key, values[axis.name])
        wanted = networks_of(data["policies"][0])
        networks = data.get("networks")
        if isinstance(networks, dict) and wanted is not None and wanted <= set(networks):
            data["networks"] = {name: networks[name] for name in networks if name in wanted}
        named = set(references(data, ()).values())
        parameters = {name: parameter for name, parameter in self.parameters.items() if name in named}
        try:
            return resolve(Source(self.source.path, data, *self._places()), parameters)
        except UnknownKeyError:
            raise
        except InputError as error:
            raise at_values(error, values) from None

    def _places(self) -> tuple[dict[Key, int], dict[Key, str], Source | None]:
        return self.source.lines, self.source.overrides, self.source.below


def part_of(sweep: Sweep, index: int, policy: dict[str, Any]) -> Part:
    """The part of the policy that stands at `index`."""
    here: Key = ("policies", index)
    data = {key: deepcopy(value) for key, value in sweep.source.data.items() if key not in ("parameters", "policies")}
    data = {"name": sweep.spec.name, **data, "policies": [policy]}
    networks = data.get("networks")
    wanted = networks_of(policy)
    if isinstance(networks, dict) and wanted is not None and wanted <= set(networks):
        # where a network is missing, the check of the policy says it best
        data["networks"] = {name: value for name, value in networks.items() if name in wanted}
    named = set(references(data, ()).values())
    axes = []
    for axis in sweep.axes:
        if axis.key is None:
            used = axis.name in named
        elif axis.key[0] == "policies":
            used = axis.key[:2] == here
        else:
            used = axis.key[0] != "networks" or axis.key[1] in data.get("networks", {})
        if used:
            axes.append(Axis(axis.name, axis.values, None if axis.key is None else _moved(axis.key, here)))
    elsewhere = {axis.name for axis in sweep.axes} - {axis.name for axis in axes}
    fixed = {name: value for name, value in sweep.fixed.items() if name not in elsewhere}
    names = {axis.name for axis in axes} | set(fixed)
    below = sweep.source.below
    return Part(
        policy=str(policy.get("name", f"policy {index}")),
        source=Source(
            sweep.source.path,
            data,
            _lines(sweep.source, here),
            sweep.source.overrides,
            None if below is None else Source(below.path, {}, _lines(below, here)),
        ),
        axes=tuple(axes),
        constraints=tuple(constraint for constraint in sweep.constraints if constraint.names <= names),
        parameters=sweep.parameters,
        fixed=fixed,
    )


def networks_of(policy: dict[str, Any]) -> set[str] | None:
    """Networks that the policy's levels name; None where an axis chooses one."""
    levels = policy.get("levels")
    if not isinstance(levels, list) or not all(isinstance(level, dict) for level in levels):
        return None
    names = {level.get("network") for level in levels}
    if not all(isinstance(name, str) and not name.startswith("$") for name in names):
        return None
    return {str(name) for name in names}


def at_values(error: InputError, values: Values) -> InputError:
    """The error with the point at which it came up."""
    given = ", ".join(f"{name}={value}" for name, value in values.items())
    return InputError(f"{error} (at {given}; a constraint can leave such points out)") if given else error


def _lines(source: Source, here: Key) -> dict[Key, int]:
    moved = ((_moved(key, here), line) for key, line in source.lines.items())
    return {key: line for key, line in moved if key is not None}


def _moved(key: Key, here: Key) -> Key | None:
    """Where a key of the file is in a source whose only policy is the one at `here`; None for other policies."""
    if key[:1] != ("policies",) or len(key) == 1:
        return key
    return ("policies", 0, *key[2:]) if key[:2] == here else None
