"""Where a sweep's figures are kept: Parquet parts that are only ever added, each whole or not there at all.

    meta.json       format, code version, command, date, size of the space
    sweep.yaml      the sweep as it was checked, over base.yaml
    base.yaml       the scenario that it varies, overrides applied, paths absolute
    plan.parquet    the points of the space in order: hash, policy, values, cascade, workload
    parts/*.parquet figures by (point, engine)

A part is written beside its place, flushed to the disk and renamed: whenever the process or the machine dies, the
store is what it was before or after. Figures carry the hash of all that they follow from, so a part is right wherever
the sweep goes on from there. One process writes at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from hispec_sim.errors import InputError
from hispec_sim.sweep.evaluate import Engine, Figures

FORMAT = 1
TEXTS = ("sweep.yaml", "base.yaml")
"""What is kept of the sweep file and of the scenario that it varies."""
_META, _PLAN, _PARTS, _LOCK, _UNFINISHED = "meta.json", "plan.parquet", "parts", ".lock", ".unfinished-"
_KEY = ("point", "engine")
_FIGURES = tuple(field.name for field in fields(Figures))
_PART = pa.schema([*((name, pa.string()) for name in _KEY), *((name, pa.list_(pa.float64())) for name in _FIGURES)])

Evaluated = tuple[str, Engine]
"""A point's hash and the engine that its figures come from."""


class Store:
    """A sweep's folder. Raises InputError when it is none, or of a format that this version does not read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = _read_meta(folder)

    def finished(self) -> dict[Evaluated, Figures]:
        """All figures of the store. Raises InputError for a part that cannot be read."""
        found: dict[Evaluated, Figures] = {}
        for path in _parts_of(self.folder):
            table = _read_parquet(path, "remove that file, and its points are computed again")
            if table.schema != _PART:
                raise InputError(f"{path} is no part of a sweep; remove it")
            columns = [table.column(name).to_pylist() for name in (*_KEY, *_FIGURES)]
            for point, engine, *figures in zip(*columns, strict=True):
                found.setdefault((point, engine), Figures(*map(tuple, figures)))
        return found

    def append(self, engine: Engine, figures: Mapping[str, Figures]) -> None:
        """Keep the figures of some points. Raises InputError when the disk is full or cannot be written."""
        rows = [{"point": point, "engine": engine, **asdict(found)} for point, found in figures.items()]
        name = hashlib.sha256("".join([engine, *figures]).encode()).hexdigest()[:16]
        path = self.folder / _PARTS / f"{name}.parquet"
        _write(path, lambda file: pq.write_table(pa.Table.from_pylist(rows, _PART), file))

    def plan(self) -> list[dict[str, Any]]:
        """The points of the space, in order, as they were given to `write_plan`. Raises InputError."""
        path = self.folder / _PLAN
        if not path.exists():
            return []
        rows: list[dict[str, Any]] = _read_parquet(path, "remove it and run the sweep again").to_pylist()
        return rows

    def write_plan(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the plan."""
        table = pa.Table.from_pylist([dict(row) for row in rows])
        _write(self.folder / _PLAN, lambda file: pq.write_table(table, file))


def create(folder: Path, meta: Mapping[str, Any], texts: Mapping[str, str]) -> Store:
    """Make a folder a store, or go on with the one that it is; `texts` are its `TEXTS` by name.

    Raises InputError when it is a store of another format, or cannot be written.
    """
    try:
        (folder / _PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder / _PARTS}: {error.strerror}; give another place with --out"
        ) from None
    if (folder / _META).exists():
        _read_meta(folder)  # another format is left as it is
    text = json.dumps({"format": FORMAT, **meta}, indent=2) + "\n"
    for name, content in {_META: text, **texts}.items():
        _write(folder / name, partial(_put, content.encode()))
    return Store(folder)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing there, and clears away what one that died left unfinished.

    Raises InputError for a folder that holds anything but a sweep, before it is touched.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give another place with --out")
    try:
        if folder.is_dir() and not _is_sweep(list(folder.iterdir())):
            raise InputError(f"{folder} holds something else than a sweep; give another place with --out")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; give another place with --out") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it however the process ends
        except OSError:
            raise InputError(f"another sweep is writing to {folder}; wait for it, or give another --out") from None
        for path in (*folder.glob(f"{_UNFINISHED}*"), *folder.glob(f"{_PARTS}/{_UNFINISHED}*")):
            path.unlink(missing_ok=True)
        yield


def _is_sweep(found: Sequence[Path]) -> bool:
    """Whether a folder with these in it is a sweep's (its answer and pages may lie there too), or empty."""
    names = {path.name for path in found if not path.name.startswith(_UNFINISHED)}
    return bool(names & {_LOCK, _META}) or names <= {_PLAN, _PARTS, *TEXTS}


def _read_meta(folder: Path) -> Mapping[str, Any]:
    path = folder / _META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        found = meta["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} holds no sweep (it has no {_META}); hispec sweep FILE makes one") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; make it readable, or give another --out") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged; remove it and run the sweep again, its finished parts are kept") from None
    if found != FORMAT:
        raise InputError(
            f"{folder} is a sweep in format {found}, and this version reads format {FORMAT}; give another --out, or "
            f"read it with the version that wrote it ({meta.get('code_version', 'unknown')})"
        )
    checked: Mapping[str, Any] = meta
    return checked


def _read_parquet(path: Path, cure: str) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None)
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; allow reading it") from None
    except (OSError, pa.ArrowException):
        raise InputError(f"{path} is damaged or cannot be read; {cure}") from None


def _parts_of(folder: Path) -> list[Path]:
    """Every part. A folder that cannot be listed is an error: its parts are there, though not seen."""
    parts = folder / _PARTS
    try:
        return sorted(path for path in parts.iterdir() if path.suffix == ".parquet")
    except OSError as error:
        raise InputError(
            f"{parts} cannot be read: {error.strerror}; it is the folder of the sweep's finished points: mend that, or "
            "give another --out"
        ) from None


def _put(data: bytes, file: BinaryIO) -> None:
    file.write(data)


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """All of a file or none of it."""
    unfinished = path.with_name(f"{_UNFINISHED}{path.name}.new")  # no *.parquet, which readers take for whole
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written: {error.strerror}; all that was finished before is kept: make room, or "
            "allow writing there, and run the same command again"
        ) from None
