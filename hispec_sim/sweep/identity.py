"""What makes two evaluations the same: the resolved configuration, what its files hold, and the code."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import hispec_sim
from hispec_sim.errors import InputError
from hispec_sim.scenario.load import LoadedScenario

_DIGITS = 24  # of a hash, 96 bits
_UNRELATED = {"cli", "report", "published", "models", "execute", "profiler", "sweep"}
"""Rooms whose code cannot change what a configuration is simulated to do."""


@cache
def code_version() -> str:
    """The version, and a digest of the code and data that the figures come from."""
    package = Path(hispec_sim.__file__).parent
    digest = hashlib.sha256()
    for path in sorted((*package.rglob("*.py"), *package.glob("data/*.yaml"))):
        relative = path.relative_to(package)
        if relative.parts[0] not in _UNRELATED:
            digest.update(f"{relative.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return f"{hispec_sim.__version__}+{digest.hexdigest()[:12]}"


@cache
def file_digest(path: Path) -> str:
    """Digest of what a file holds. Raises InputError when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def input_files(loaded: LoadedScenario) -> list[Path]:
    """The profiles and traces that a scenario reads."""
    networks, policies = loaded.scenario.networks.values(), loaded.scenario.policies
    names = [network.profile for network in networks if network.profile is not None]
    names += [trace for policy in policies if (trace := getattr(policy.acceptance, "trace", None)) is not None]
    return [loaded.folder / name for name in names]


def point_hash(loaded: LoadedScenario) -> str:
    """Content hash of a scenario of one policy: alike for whatever is simulated alike, wherever its files lie."""
    resolved: dict[str, Any] = loaded.scenario.model_dump(
        mode="json", include={"seed", "repetitions", "networks", "device", "workload", "policies"}
    )
    for network in resolved["networks"].values():
        if network["profile"] is not None:
            network["profile"] = file_digest(loaded.folder / network["profile"])
    for policy in resolved["policies"]:
        del policy["name"]
        if policy["acceptance"] is not None and "trace" in policy["acceptance"]:
            policy["acceptance"]["trace"] = file_digest(loaded.folder / policy["acceptance"]["trace"])
    text = json.dumps([code_version(), resolved], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
