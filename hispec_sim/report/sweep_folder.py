"""Writes a sweep's answer into its folder: `recommendation.json`, `inputs.csv`, `figures/`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from pydantic import ValidationError

from hispec_sim.errors import InputError
from hispec_sim.report.figures import STYLE
from hispec_sim.report.recommendation import VERSION, Recommendation
from hispec_sim.report.sweep_figures import Picture

RECOMMENDATION = "recommendation.json"


def write_recommendation(folder: Path, answer: Recommendation) -> list[Path]:
    """Replaces an earlier answer of this sweep; a reader sees the old or the new one, never half of it."""
    inputs = pd.DataFrame([effect.model_dump() for effect in answer.inputs])
    return [
        write_text(folder / RECOMMENDATION, answer.model_dump_json(indent=2) + "\n"),
        write_text(folder / "inputs.csv", inputs.to_csv(index=False, float_format="%.6g")),
    ]


def read_recommendation(folder: Path) -> Recommendation | None:
    """The answer that was written last; None if there is none. Raises InputError for one that cannot be read."""
    path = folder / RECOMMENDATION
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    broken = InputError(f"{path} is no recommendation; make it again with `hispec recommend {folder}`")
    try:
        data = json.loads(text)
    except ValueError:
        raise broken from None
    if isinstance(data, dict) and data.get("version", VERSION) != VERSION:
        raise InputError(
            f"{path} has version {data['version']!r}, this program reads {VERSION}; make it again with "
            f"`hispec recommend {folder}`"
        )
    try:
        return Recommendation.model_validate(data)
    except ValidationError:
        raise broken from None


def write_pictures(folder: Path, pictures: Iterable[Picture]) -> list[Path]:
    """Each picture as PNG and SVG in `folder`. Raises InputError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(folder, error) from None
    written = []
    for picture in pictures:
        for ending in ("png", "svg"):
            drawn = io.BytesIO()
            with mpl.rc_context(STYLE):
                picture.figure.savefig(
                    drawn, format=ending, dpi=150, metadata={"Date": None} if ending == "svg" else {}
                )
            written.append(_write(folder / f"{picture.name}.{ending}", drawn.getvalue()))
    return written


def write_text(path: Path, text: str) -> Path:
    """Write a file whole or not at all. Raises InputError where it cannot be."""
    return _write(path, text.encode())


def _write(path: Path, data: bytes) -> Path:
    unfinished = path.with_name(f".{path.name}.new")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise _not_written(path, error) from None
    return path


def _not_written(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} cannot be written: {error.strerror}; what was there is as it was: make room, or allow writing there, "
        "and run the same command again"
    )
