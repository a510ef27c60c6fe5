"""Layouts that were found on this machine before: two starts that lay weights out alike decode alike, and take as long.

They stand in `layouts.json` in `$HISPEC_CACHE`, or else in `~/.cache/hispec-sim`, by host, kind of processor, threads
and versions of torch and numpy. Whoever deletes the file has all shapes tried anew.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hispec_sim.models.linear import Layout

FOLDER = "HISPEC_CACHE"


def found_before() -> dict[torch.Size, Layout]:
    """The layout of each shape (out, in) that is known; none where the file is missing or damaged."""
    try:
        known = _read().get(_here(), {})
        return {torch.Size(map(int, shape.split("x"))): Layout(layout) for shape, layout in known.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def remember(found: Mapping[torch.Size, Layout]) -> None:
    """Add layouts to those that are known. Where nothing can be written, the next start tries again."""
    content = _read()
    mine = {"x".join(map(str, shape)): layout.value for shape, layout in {**found_before(), **found}.items()}
    try:
        path = _path()
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps({**content, _here(): mine}, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return


def _path() -> Path:
    return Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "hispec-sim") / "layouts.json"


def _here() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    versions = f"torch {torch.__version__}, numpy {np.__version__}"
    return f"{platform.node()}, {capability}, {torch.get_num_threads()} threads, {versions}"


def _read() -> dict[str, Any]:
    try:
        content = json.loads(_path().read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, RuntimeError):
        return {}
