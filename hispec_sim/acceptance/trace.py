"""The agreement trace: which levels predict what the target predicts, position by position of real text.

One teacher-forced pass of a target over its own output records what every exit (and any separate draft network)
predicts at every position, so that one recording serves every cascade that can be built from those exits.

What matters of a prediction is whom it agrees with, so a position stores one small *label* per exit: 0 where the
exit predicts what the target predicts, otherwise a number that equals another exit's label exactly when both predict
the same wrong token.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hispec_sim.cascade import Cascade
from hispec_sim.errors import InputError

FORMAT = "hispec-agreement-trace"
VERSION = 1


class Exit(NamedTuple):
    """A point at which a network can be read out."""

    network: str
    exit_layer: int

    def __str__(self) -> str:
        return f"{self.network}@{self.exit_layer}"


@dataclass(frozen=True, slots=True)
class AgreementTrace:
    """Labels of all exits over all positions, sequence after sequence.

    `labels` has shape (positions, exits), uint8; the last exit is the target and its labels are all 0. Sequence s
    covers positions `starts[s]` to `starts[s + 1]` (`starts` ends with the number of positions). `off_path[i, j]` is
    the measured share of positions off the target's path where exits i and j agree, NaN where it was not measured.
    `provenance` says how, when and by what command the trace was made. Raises InputError when parts do not fit.
    """

    exits: tuple[Exit, ...]
    labels: NDArray[np.uint8]
    starts: NDArray[np.int64]
    off_path: NDArray[np.float64]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        n = len(self.exits)
        if n == 0 or len(set(self.exits)) != n:
            raise InputError("an agreement trace needs at least one exit, each named once")
        if self.labels.dtype != np.uint8 or self.labels.ndim != 2 or self.labels.shape[1] != n:
            raise InputError(
                f"labels must be uint8 of shape (positions, {n}), got {self.labels.dtype} {self.labels.shape}"
            )
        if len(self.labels) == 0:
            raise InputError("the trace holds no positions")
        if self.labels[:, -1].any():
            raise InputError(f"the last exit, {self.exits[-1]}, is the target: all its labels must be 0")
        steps = np.diff(self.starts)
        if len(steps) < 1 or self.starts[0] != 0 or self.starts[-1] != len(self.labels) or (steps < 1).any():
            raise InputError(f"starts must rise from 0 to the {len(self.labels)} positions of the trace")
        if self.off_path.shape != (n, n) or ((self.off_path < 0) | (self.off_path > 1)).any():
            raise InputError(f"off_path must be probabilities (or NaN) of shape ({n}, {n})")

    @property
    def n_sequences(self) -> int:
        """Recorded sequences."""
        return len(self.starts) - 1

    def columns(self, cascade: Cascade) -> tuple[int, ...]:
        """The trace's exit for each level of the cascade. Raises InputError naming an exit that is not recorded."""
        wanted = [Exit(level.network, level.exit_layer) for level in cascade.levels]
        for exit_ in wanted:
            if exit_ not in self.exits:
                recorded = ", ".join(map(str, self.exits))
                raise InputError(f"the agreement trace has no exit {exit_}; it has {recorded}")
        if wanted[-1] != self.exits[-1]:
            raise InputError(f"the trace was recorded on the target {self.exits[-1]}, not on {wanted[-1]}")
        return tuple(self.exits.index(exit_) for exit_ in wanted)

    def agreement(self, first: int, second: int) -> float:
        """Share of positions on the target's path at which two exits (by column) predict the same token."""
        return float(np.mean(self.labels[:, first] == self.labels[:, second]))

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Write atomically as a zip of plain arrays and a JSON header. Raises InputError if the file exists."""
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists; choose another name or ask to overwrite it")
        header = {"format": FORMAT, "version": VERSION, "exits": self.exits, "provenance": dict(self.provenance)}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            _put(archive, "header.json", json.dumps(header, indent=1).encode())
            for name in ("labels", "starts", "off_path"):
                column_major = np.asfortranarray(getattr(self, name))  # an exit's labels compress best together
                raw = io.BytesIO()
                np.lib.format.write_array(raw, column_major, allow_pickle=False)
                _put(archive, f"{name}.npy", raw.getvalue())
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "wb") as file:
            file.write(buffer.getvalue())
        Path(temporary).replace(path)


def load_trace(path: Path) -> AgreementTrace:
    """Read a trace. Raises InputError for a missing, foreign, newer, truncated or inconsistent file."""
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read("header.json"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise InputError(f"{path} is not an agreement trace (its header does not say {FORMAT})")
            if header.get("version") != VERSION:
                raise InputError(f"{path} is a trace of version {header.get('version')}; this release reads {VERSION}")
            labels, starts, off_path = (
                np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
                for name in ("labels", "starts", "off_path")
            )
    except FileNotFoundError:
        raise InputError(f"there is no agreement trace at {path}") from None
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not an agreement trace, or it is damaged ({error}); record it again") from None
    try:
        exits = tuple(Exit(str(network), int(layer)) for network, layer in header["exits"])
        return AgreementTrace(exits, labels, starts, off_path, header["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"agreement trace {path}: {error}") from None


def label_predictions(predictions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Labels from token ids of shape (positions, exits), the target's in the last column.

    Raises InputError when more than 255 exits disagree at one position.
    """
    labels = np.zeros(predictions.shape, np.uint8)
    differs = predictions != predictions[:, -1:]
    highest = np.zeros(len(predictions), np.int64)
    for column in range(predictions.shape[1] - 1):
        fresh = differs[:, column].copy()
        for earlier in range(column):
            same = fresh & (predictions[:, earlier] == predictions[:, column])
            labels[same, column] = labels[same, earlier]
            fresh &= ~same
        highest += fresh
        if highest.max() > 255:
            raise InputError("more than 255 different predictions at one position; record fewer exits")
        labels[fresh, column] = highest[fresh]
    return labels


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # equal traces are equal files
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)


def sequence_labels(trace: AgreementTrace, columns: Sequence[int], sequence: int) -> list[list[int]]:
    """Labels of the given exits over one sequence (taken modulo the number of sequences), position by position."""
    s = sequence % trace.n_sequences
    rows: list[list[int]] = trace.labels[trace.starts[s] : trace.starts[s + 1], list(columns)].tolist()
    return rows
