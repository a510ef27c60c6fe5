"""Which `$names` stand where, so that a policy is varied over those axes only that it uses."""

from __future__ import annotations

import re
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
