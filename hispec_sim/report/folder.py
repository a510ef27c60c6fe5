"""Writes a run's results: all of them or none, and nothing that was there before is lost without being asked."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from hispec_sim.errors import InputError
from hispec_sim.report.figures import draw_all
from hispec_sim.report.summary import Summary


def check_free(folder: Path, *, force: bool) -> None:
    """Raises InputError if `folder` holds something and `force` was not given, or if it cannot be a folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give another place with --out")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise InputError(f"{folder} already holds results; replace them with --force, or give another place with --out")


def move_in(folder: Path, write: Callable[[Path], list[Path]]) -> list[Path]:
    """All files that `write` makes or none: it writes into a folder beside `folder`, whose files are moved in at the
    end. Raises InputError where nothing can be written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as staging:
            files = write(Path(staging))
            folder.mkdir(exist_ok=True)
            return [file.replace(folder / file.name) for file in files]
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; give another place with --out") from None


def write_results(
    folder: Path, summary: Summary, tables: dict[str, pd.DataFrame], timeline: dict[str, Any], *, force: bool
) -> list[Path]:
    """Write `summary.json`, each table as CSV, the figures and `timeline.json`; returns the files in that order.

    Everything is written beside the folder first and moved in at the end; files of other names stay as they are.
    """
    check_free(folder, force=force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise InputError(f"cannot write to {folder.parent}: {error.strerror}; give another place with --out") from None
    try:
        names = [_text(staging / "summary.json", summary.model_dump_json(indent=2) + "\n")]
        for name, table in tables.items():
            names.append(_text(staging / f"{name}.csv", table.to_csv(index=False, float_format="%.6g")))
        names += [path.name for path in draw_all(summary, tables["wall"], staging)]
        names.append(_text(staging / "timeline.json", json.dumps(timeline, separators=(",", ":"))))
        folder.mkdir(exist_ok=True)
        for name in names:
            (staging / name).replace(folder / name)
        return [folder / name for name in names]
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _text(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return path.name
