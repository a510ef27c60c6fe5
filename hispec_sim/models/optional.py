"""Libraries that only loading real networks needs, asked for when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from hispec_sim.errors import InputError


def optional(name: str) -> Any:
    """The module `name`. Raises InputError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f'loading real networks needs the {name} library: run pip install "hispec-sim[models]"'
        ) from None
