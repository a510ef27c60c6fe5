"""From a sweep file to checked axes and constraints, over one source that holds the base and what replaces it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hispec_sim.errors import InputError
from hispec_sim.scenario.load import explain, read_parameters
from hispec_sim.scenario.schema import Parameter, Scenario
from hispec_sim.scenario.yaml_source import (
    Key,
    Source,
    apply_overrides,
    at,
    did_you_mean,
    find,
    read_source,
)
from hispec_sim.sweep.axes import Axis, values_of
from hispec_sim.sweep.columns import DESCRIBING, MEASURED, NAMING
from hispec_sim.sweep.expression import Expression
from hispec_sim.sweep.references import references
from hispec_sim.sweep.schema import SweepSpec

FILE_KEYS = ("profile", "trace")
"""Keys of a scenario whose values are paths."""
_OWN_KEYS = tuple(SweepSpec.model_fields)
_SCENARIO_KEYS = tuple(key for key in Scenario.model_fields if key not in ("name", "description", "wall"))


@dataclass(frozen=True, slots=True)
class Sweep:
    """A checked sweep file. `source` holds the scenario that the axes vary; `parameters` are its named numbers."""

    spec: SweepSpec
    source: Source
    axes: tuple[Axis, ...]
    constraints: tuple[Expression, ...]
    parameters: Mapping[str, Parameter]

    @property
    def fixed(self) -> dict[str, float]:
        """The named numbers by their values, for constraints."""
        return {name: parameter.value for name, parameter in self.parameters.items()}

    @property
    def path(self) -> Path:
        """The sweep file."""
        return self.source.path


def load_sweep(path: Path, overrides: Iterable[str] = ()) -> Sweep:
    """Read and check a sweep file, with `key=value` overrides applied. Raises InputError."""
    own = read_source(path)
    for word in own.data:
        if word not in _OWN_KEYS and word not in _SCENARIO_KEYS:
            raise own.fail((word,), f"unknown key {word!r}{did_you_mean(word, (*_OWN_KEYS, *_SCENARIO_KEYS))}")
    if not isinstance(own.data.get("base"), str):
        raise own.fail(("base",), "a sweep needs `base`, the scenario file that it varies")
    base = read_source(path.parent / own.data["base"])
    for source in (own, base):
        _make_paths_absolute(source.data, source.path.parent.resolve())
    varied = {key: value for key, value in base.data.items() if key in _SCENARIO_KEYS}
    if "policies" in own.data:
        base.lines = {key: line for key, line in base.lines.items() if key[:1] != ("policies",)}
    source = Source(path, _laid_over(varied, own.data), own.lines, below=base)
    for section in ("device", "workload"):  # so that an axis finds them
        source.data.setdefault(section, {})
    apply_overrides(source, overrides)
    _make_paths_absolute(source.data, path.parent.resolve())
    spec = _spec(source)
    source.data = {key: value for key, value in source.data.items() if key in _SCENARIO_KEYS}
    parameters = read_parameters(source)
    places = references(source.data, ())
    used = set(places.values())
    axes = []
    for name, given in spec.axes.items():
        try:
            place, values = _place(source, name, parameters, used), values_of(given)
            if any(key[-1] in FILE_KEYS and at(source.data, key) == f"${name}" for key, _ in places):
                values = tuple(str(path.parent.resolve() / str(value)) for value in values)
            axes.append(Axis(name, values, place))
        except InputError as error:
            raise source.fail(("axes", name), str(error)) from None
    names = {**parameters, **dict.fromkeys(spec.axes)}
    constraints = []
    for index, text in enumerate(spec.constraints):
        try:
            constraints.append(Expression(text))
            constraints[-1].check_names(names)
        except InputError as error:
            raise source.fail(("constraints", index), str(error)) from None
    for axis in axes:
        if axis.key is not None:  # an error in a value points at its axis
            source.lines[axis.key] = own.lines.get(("axes", axis.name), 1)
    return Sweep(spec, source, tuple(axes), tuple(constraints), parameters)


def _spec(source: Source) -> SweepSpec:
    try:
        return SweepSpec.model_validate({key: source.data[key] for key in _OWN_KEYS if key in source.data})
    except ValidationError as error:
        raise explain(source, error, SweepSpec, ()) from None


def _place(source: Source, name: str, parameters: Mapping[str, Parameter], used: set[str]) -> Key | None:
    """Where an axis puts its values."""
    if name in (*NAMING, *DESCRIBING, *MEASURED):
        raise InputError(f"{name} is a column of every sweep's table; give the axis another name, such as {name}_axis")
    if "." in name:
        return find(source, name)
    if name in used:
        return None
    if name in parameters:
        raise InputError(f"the parameter {name} is used nowhere in the scenario, so varying it changes nothing")
    hint = did_you_mean(name, [*parameters, *used])
    raise InputError(
        f"nothing has the name {name}: write ${name} where the values of this axis belong, or name the key that "
        f"takes them, such as workload.concurrency{hint}"
    )


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings joined key by key; all else from above where it stands there."""
    joined = dict(below)
    for key, value in above.items():
        held = joined.get(key)
        joined[key] = _laid_over(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return joined


def _make_paths_absolute(data: Any, folder: Path) -> None:
    """Files that a scenario names are relative to it, wherever it is used."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        if key in FILE_KEYS and isinstance(value, str):
            if value.startswith("${") or not value.startswith("$"):  # $name alone stands for a whole path
                data[key] = str(folder / value)
        elif isinstance(value, dict | list):
            _make_paths_absolute(value, folder)
