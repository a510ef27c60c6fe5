"""From a scenario file to a checked `Scenario`, or to one error that says where, what and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hispec_sim.errors import InputError, UnknownKeyError
from hispec_sim.scenario.schema import Parameter, Scenario
from hispec_sim.scenario.yaml_source import (
    Key,
    Source,
    apply_overrides,
    describe,
    did_you_mean,
    read_source,
    substitute,
)


@dataclass(frozen=True, slots=True)
class LoadedScenario:
    """A scenario with the file it came from and where each parameter is used (`$name` by key)."""

    scenario: Scenario
    source: Source
    uses: Mapping[Key, str]

    @property
    def folder(self) -> Path:
        """Paths in the scenario are relative to this."""
        return self.source.path.parent

    def fail(self, key: Key, message: str) -> InputError:
        """The error for something wrong at `key` of the file."""
        return self.source.fail(key, message)

    def with_parameter(self, name: str, value: float) -> LoadedScenario:
        """The same scenario with one parameter at another value."""
        parameters = dict(self.scenario.parameters)
        parameters[name] = parameters[name].model_copy(update={"value": value, "range": None, "source": "varied"})
        return resolve(self.source, parameters)


def load_scenario(path: Path, overrides: Iterable[str] = ()) -> LoadedScenario:
    """Read and check a scenario, with `key=value` overrides applied. Raises InputError."""
    source = read_source(path)
    apply_overrides(source, overrides)
    return resolve(source, read_parameters(source))


def read_parameters(source: Source) -> dict[str, Parameter]:
    """The named numbers that a source declares. Raises InputError."""
    declared = source.data.get("parameters", {})
    if not isinstance(declared, dict):
        raise source.fail(("parameters",), f"must map names to parameters, got {describe(declared)}")
    parameters = {}
    for name, fields in declared.items():
        try:
            parameters[name] = Parameter.model_validate(fields)
        except ValidationError as error:
            raise explain(source, error, Parameter, ("parameters", name)) from None
    return parameters


def resolve(source: Source, parameters: Mapping[str, Parameter]) -> LoadedScenario:
    """The checked scenario of a source, with every `$name` replaced. Raises InputError."""
    uses: dict[Key, str] = {}
    data = substitute(source, {name: parameter.value for name, parameter in parameters.items()}, uses)
    if parameters:
        data["parameters"] = parameters
    try:
        return LoadedScenario(Scenario.model_validate(data), source, uses)
    except ValidationError as error:
        raise explain(source, error, Scenario, ()) from None


def explain(source: Source, error: ValidationError, model: type[BaseModel], prefix: Key) -> InputError:
    """One paragraph for the first thing that is wrong, and how many more there are."""
    # A misspelt key is reported before the key that it leaves missing.
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    more = f" ({len(details) - 1} more after this one)" if len(details) > 1 else ""
    detail = details[0]
    key = (*prefix, *_key_in_file(source, prefix, detail["loc"]))
    found = source.fail(key, _message(detail, model) + more)
    return UnknownKeyError(found) if detail["type"] == "extra_forbidden" else found


def _key_in_file(source: Source, prefix: Key, location: tuple[int | str, ...]) -> Key:
    """The error's location without the union tags that pydantic puts between keys."""
    place: Any = source.data
    for part in prefix:
        place = place[part]
    key: list[int | str] = []
    for index, part in enumerate(location):
        if isinstance(place, dict) and part not in place and index < len(location) - 1:
            continue
        if not isinstance(place, dict | list) and not key:
            continue
        key.append(part)
        try:
            place = place[part]
        except (KeyError, IndexError, TypeError):
            place = None
    return tuple(key)


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, given = detail["type"], describe(detail["input"])
    if kind == "extra_forbidden":
        word = str(detail["loc"][-1])
        return f"unknown key {word!r}{did_you_mean(word, _fields_at(model, detail['loc'][:-1]))}"
    if kind == "missing":
        return "this key is required and missing"
    if kind == "union_tag_not_found":
        return "`model` is missing; give independent, per_position, correlated, chain or trace"
    if kind == "value_error":
        return str(detail.get("ctx", {}).get("error", detail["msg"]))
    message = detail["msg"][0].lower() + detail["msg"][1:]
    hint = ""
    if kind in ("float_type", "int_type") and isinstance(detail["input"], str):
        hint = "; write a plain number such as 0.001 (YAML reads 1e-3 as text) or $name from `parameters`"
    return f"{message}, got {given}{hint}"


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys that the schema allows at a location (union tags and list indexes in it included)."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def follow(item: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in item:
            item = definitions[item["$ref"].rsplit("/", 1)[1]]
        options = [option for option in item.get("anyOf", ()) if option.get("type") != "null"]
        return follow(options[0]) if options else item

    place = follow(schema)
    for part in location:
        tags = place.get("discriminator", {}).get("mapping", {})
        if part in tags:
            place = follow({"$ref": tags[part]})
        elif isinstance(part, int):
            place = follow(place.get("items", {}))
        elif part in place.get("properties", {}):
            place = follow(place["properties"][part])
        else:
            place = follow(place.get("additionalProperties", {}) or {})
    return list(place.get("properties", {}))
