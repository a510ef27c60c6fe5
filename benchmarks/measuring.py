"""What every benchmark of real decoding needs: the machine by name, how quiet it is, and results as a file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress

T = TypeVar("T")

PACKAGES = ("hispec-sim", "torch", "transformers", "numpy", "xllamacpp")
QUIET_SPREAD = 1.2
"""The fixed product of a quiet machine varies by less than this between its slowest and its fastest."""


class Quietness:
    """Times one fixed product of matrices now and then: whatever makes it slower makes the contenders slower too."""

    def __init__(self) -> None:
        self._matrix = torch.rand(384, 384, generator=torch.Generator().manual_seed(0))
        self.ms: list[float] = []
        self.load_before = os.getloadavg()
        for _ in range(3):
            self._product()

    def _product(self) -> None:
        for _ in range(4):
            self._matrix @ self._matrix

    def check(self) -> None:
        """Time it once more, as the median of five."""
        times = []
        for _ in range(5):
            began = time.perf_counter()
            self._product()
            times.append(1000 * (time.perf_counter() - began))
        self.ms.append(statistics.median(times))

    def report(self) -> dict[str, Any]:
        """Plain data for a file."""
        return {
            "fixed_product_ms": self.ms,
            "slowest_over_fastest": max(self.ms) / min(self.ms),
            "load_average_before": self.load_before,
            "load_average_after": os.getloadavg(),
        }

    def __str__(self) -> str:
        ratio = max(self.ms) / min(self.ms)
        verdict = "quiet" if ratio < QUIET_SPREAD else "NOISY: something else ran, repeat on a quiet machine"
        return (
            f"machine: a fixed product took {statistics.median(self.ms):.2f} ms, slowest/fastest {ratio:.2f} "
            f"({verdict}); load average {self.load_before[0]:.2f} before, {os.getloadavg()[0]:.2f} after"
        )


def watched(items: Sequence[T], text: str) -> Iterator[T]:
    """The items, with a progress bar drawn between them and never meanwhile; one line if there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"{text} ({len(items)})", file=sys.stderr, flush=True)
    with Progress(console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=len(items))
        for item in items:
            progress.refresh()
            yield item
            progress.advance(task)


def machine() -> dict[str, Any]:
    """Processor, cores, and the versions of what is installed."""
    found: dict[str, str] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform(), "versions": found}


def machine_line(facts: dict[str, Any]) -> str:
    """The same in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['processor']}, {facts['cores']} cores; {versions}"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})"


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write results in one move, replacing an earlier file of that name."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_text(json.dumps(results, indent=1, default=str) + "\n", encoding="utf-8")
    unfinished.replace(path)
    print(f"wrote {path}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
