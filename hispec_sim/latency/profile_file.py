"""Reading and writing a latency profile: one self-contained CSV with its provenance in leading comments.

The format is described in `docs/profile_format.md`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import yaml

from hispec_sim.errors import InputError
from hispec_sim.latency.profile import LatencyProfile, Provenance
from hispec_sim.latency.profile_row import Origin, ProfileRow
from hispec_sim.networks import NetworkSpec

FORMAT = "hispec-latency-profile"
FORMAT_VERSION = 1

_REQUIRED = ("op", "tensor_parallel", "batch", "query_tokens", "context", "ms", "origin")
_QUANTILES = ("p10_ms", "p90_ms", "repeats")
_COLUMNS = (*_REQUIRED[:-1], *_QUANTILES, "origin")
_FRONT_MATTER = (
    "format",
    "device",
    "network",
    "dtype",
    "software",
    "date",
    "command",
    "method",
    "rows",
    "sha256",
)
_CURE = "Write it again with `hispec profile`, or restore the file from its source."


def read_profile(path: str | Path) -> LatencyProfile:
    """The profile in `path`. Raises InputError, naming file, line, column and cure, when it is not a sound one."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such latency profile. Give the path of a profile CSV, such as those under profiles/."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a latency profile ({error}). {_CURE}") from None
    try:
        return _parse(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_profile(profile: LatencyProfile, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write `profile` to `path`, whole or not at all; InputError when the file is there and not `overwrite`."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; nothing was written. Give --force to replace it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(profile_text(profile).encode("utf-8"))
        Path(temporary).chmod(0o644)  # mkstemp makes it private; a profile is to be shared
        os.replace(temporary, path)  # noqa: PTH105 - the atomic step, named as what it is
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def profile_text(profile: LatencyProfile) -> str:
    """The file as text. The same profile always gives the same bytes."""
    rows = sorted(profile.rows, key=lambda row: row.point)
    quantiles = any(row.p10_ms is not None or row.repeats is not None for row in rows)
    columns = [name for name in _COLUMNS if quantiles or name not in _QUANTILES]
    body = io.StringIO()
    writer = csv.writer(body, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(getattr(row, name)) for name in columns] for row in rows)
    front = {
        "format": f"{FORMAT} {FORMAT_VERSION}",
        "device": profile.device,
        "network": asdict(profile.network),
        **asdict(profile.provenance),
        "rows": len(rows),
        "sha256": _digest(body.getvalue()),
    }
    front["software"] = dict(profile.provenance.software)
    front["machine"] = dict(profile.provenance.machine)
    for key in ("machine", "decode_error", "mean_over_median"):
        if front[key] in ({}, None):
            del front[key]
    header = yaml.safe_dump(front, sort_keys=False, width=10_000)
    return "".join(f"# {line}\n" for line in header.splitlines()) + body.getvalue()


def _cell(value: object) -> str:
    """Whole numbers as they are, times to four significant digits, an absent value as nothing."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
    return str(value)


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8")).hexdigest()


def _parse(text: str) -> LatencyProfile:
    if not text.strip():
        raise InputError(f"the file is empty. {_CURE}")
    lines = text.splitlines(keepends=True)
    n_front = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    front = _front_matter("".join(line[2:] if line.startswith("# ") else line[1:] for line in lines[:n_front]))
    body = "".join(lines[n_front:])
    rows = _rows(body, n_front)
    if len(rows) != front["rows"]:
        raise InputError(
            f"holds {len(rows)} rows where its front matter says {front['rows']}: it was cut short or edited. {_CURE}"
        )
    if _digest(body) != front["sha256"]:
        raise InputError(
            f"the rows do not match the sha256 checksum in the front matter: they were damaged or edited. {_CURE}"
        )
    try:
        network = NetworkSpec(**front["network"])
    except TypeError as error:
        raise InputError(f"front matter, network: {error}; give the fields of a network shape. {_CURE}") from None
    return LatencyProfile(
        device=str(front["device"]),
        network=network,
        provenance=Provenance(
            dtype=str(front["dtype"]),
            software={str(key): str(value) for key, value in front["software"].items()},
            date=str(front["date"]),
            command=str(front["command"]),
            method=str(front["method"]),
            machine={str(key): str(value) for key, value in front.get("machine", {}).items()},
            decode_error=front.get("decode_error"),
            mean_over_median=front.get("mean_over_median"),
        ),
        rows=rows,
    )


def _front_matter(text: str) -> dict[str, Any]:
    try:
        front = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"the front matter (leading # lines) is not YAML: {error}. {_CURE}") from None
    if not isinstance(front, dict) or "format" not in front:
        raise InputError(
            f"line 1: no format version; a latency profile starts with `# format: {FORMAT} {FORMAT_VERSION}`. {_CURE}"
        )
    name, _, version = str(front["format"]).rpartition(" ")
    if name != FORMAT or not version.isdecimal():
        raise InputError(
            f"front matter, format: {front['format']!r} is not a latency profile; expected "
            f"`{FORMAT} {FORMAT_VERSION}`. Give a profile CSV, such as those under profiles/."
        )
    if int(version) > FORMAT_VERSION:
        raise InputError(
            f"front matter, format: version {version} is newer than version {FORMAT_VERSION}, the newest this "
            "hispec-sim reads. Upgrade hispec-sim (`pip install -U hispec-sim`) or write the profile again."
        )
    missing = [key for key in _FRONT_MATTER if key not in front]
    if missing:
        raise InputError(f"front matter: missing {', '.join(missing)}. {_CURE}")
    kinds = {"network": dict, "software": dict, "rows": int, "machine": dict}
    kinds |= dict.fromkeys(("decode_error", "mean_over_median"), float)
    for key, kind in kinds.items():
        if key in front and not isinstance(front[key], kind):
            raise InputError(f"front matter, {key}: {front[key]!r} must be a {kind.__name__}. {_CURE}")
    return front


def _rows(body: str, n_front: int) -> tuple[ProfileRow, ...]:
    """The CSV rows; `n_front` lines stood before them, so that messages give the line in the file."""
    reader = csv.reader(io.StringIO(body))
    lines = _lines_of(reader, n_front)
    columns = next(lines, [])
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise InputError(f"line {n_front + 1}: missing column {', '.join(missing)}. {_CURE}")
    unknown = [name for name in columns if name not in _COLUMNS]
    if unknown or len(set(columns)) < len(columns):
        raise InputError(
            f"line {n_front + 1}: unknown or repeated column {', '.join(unknown or columns)}; "
            f"allowed, once each: {', '.join(_COLUMNS)}"
        )
    rows = []
    for cells in lines:
        line = n_front + reader.line_num
        if len(cells) != len(columns):
            raise InputError(f"line {line}: {len(cells)} cells where the header has {len(columns)} columns. {_CURE}")
        try:
            rows.append(_row(dict(zip(columns, cells, strict=True))))
        except InputError as error:
            raise InputError(f"line {line}, {error}. {_CURE}") from None
    return tuple(rows)


def _lines_of(reader: Iterator[list[str]], n_front: int) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(f"below line {n_front + 1}: not CSV ({error}). {_CURE}") from None


def _row(cells: dict[str, str]) -> ProfileRow:
    return ProfileRow(
        op=cells["op"],
        tensor_parallel=_count(cells, "tensor_parallel"),
        batch=_count(cells, "batch"),
        query_tokens=_count(cells, "query_tokens"),
        context=_count(cells, "context") if cells["context"] else None,
        ms=_ms(cells, "ms"),
        origin=cast(Origin, cells["origin"]),
        p10_ms=_ms(cells, "p10_ms") if cells.get("p10_ms") else None,
        p90_ms=_ms(cells, "p90_ms") if cells.get("p90_ms") else None,
        repeats=_count(cells, "repeats") if cells.get("repeats") else None,
    )


def _count(cells: dict[str, str], column: str) -> int:
    try:
        return int(cells[column])
    except ValueError:
        raise InputError(f"column {column}: {cells[column]!r} must be a whole number of at least 1") from None


def _ms(cells: dict[str, str], column: str) -> float:
    try:
        return float(cells[column])
    except ValueError:
        raise InputError(f"column {column}: {cells[column]!r} must be a time in milliseconds above 0") from None
