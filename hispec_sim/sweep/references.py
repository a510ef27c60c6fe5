"""Which `$names` stand where, so that a policy is varied over those axes only that it uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hispec_sim.scenario.yaml_source import Key

_NAME = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*)\Z)")


def references(data: Any, key: Key) -> dict[tuple[Key, str], str]:
    """The names in `data`, which stands at `key`, by where they stand; those of `parameters` are left out."""
    found: dict[tuple[Key, str], str] = {}
    if isinstance(data, dict):
        for name, value in data.items():
            if (*key, name) != ("parameters",):
                found |= references(value, (*key, name))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            found |= references(value, (*key, index))
    elif isinstance(data, str):
        for match in _NAME.finditer(data):
            name = match[1] or match[2]
            if match[1] or match.start() == 0:
                found[key, name] = name
    return found


def with_values(data: Any, values: Mapping[str, Any]) -> Any:
    """A copy of `data` with the given names replaced; other names, such as parameters, still stand."""
    if isinstance(data, dict):
        return {name: with_values(value, values) for name, value in data.items()}
    if isinstance(data, list):
        return [with_values(value, values) for value in data]
    if isinstance(data, str) and "$" in data:
        if data[1:] in values and data[0] == "$":
            return values[data[1:]]
        return _NAME.sub(lambda match: str(values[match[1]]) if match[1] in values else match[0], data)
    return data
