"""Times as people write and read them on a command line."""

from __future__ import annotations

import re

from hispec_sim.errors import InputError

_SECONDS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(option: str, text: str) -> float:
    """The seconds of a time such as 2.5h, 40m or 900s. Raises InputError that names the option."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if not found or not float(found[1]) > 0:
        raise InputError(f"{option} must be a time such as 2.5h, 40m or 900s, got {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


def duration(seconds: float) -> str:
    """A time as text: in seconds, or in minutes where these are enough."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
