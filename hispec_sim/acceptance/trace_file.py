"""The agreement trace as a file: a zip of a JSON header and plain NumPy arrays (docs/traces.md)."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hispec_sim.acceptance.trace import AgreementTrace, Exit, OffPath, Prompt, Sampling
from hispec_sim.errors import InputError
from hispec_sim.networks import NetworkSpec

FORMAT = "hispec-agreement-trace"
VERSION = 2
GREEDY_ARRAYS = ("labels", "starts", "off_path_at", "off_path_rows")
SAMPLED_ARRAYS = ("log_prob", "acceptance", "confirmed")


def save_trace(trace: AgreementTrace, path: Path, *, overwrite: bool = False) -> None:
    """Write in one move; equal traces make equal files. Raises InputError if the file exists or cannot be written."""
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another name or ask to overwrite it")
    sampling = trace.sampling
    header = {
        "format": FORMAT,
        "version": VERSION,
        "networks": [asdict(network) for network in trace.networks],
        "exits": trace.exits,
        "sampling": sampling and {"temperature": sampling.temperature, "top_p": sampling.top_p},
        "provenance": dict(trace.provenance),
        "prompts": trace.prompts,
    }
    arrays: dict[str, Any] = {
        "labels": trace.labels,
        "starts": trace.starts,
        "off_path_at": trace.off_path.at,
        "off_path_rows": trace.off_path.rows,
    }
    if sampling is not None:
        arrays |= {name: getattr(sampling, name) for name in SAMPLED_ARRAYS}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _put(archive, "header.json", json.dumps(header, indent=1).encode())
        for name, array in arrays.items():
            raw = io.BytesIO()
            np.lib.format.write_array(raw, array, allow_pickle=False)
            _put(archive, f"{name}.npy", raw.getvalue())
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; give another place") from None
    with os.fdopen(handle, "wb") as file:
        file.write(buffer.getvalue())
    Path(temporary).chmod(0o644)  # mkstemp makes it private; a trace is to be shared
    Path(temporary).replace(path)


def load_trace(path: Path) -> AgreementTrace:
    """Read a trace. Raises InputError for a missing, foreign, newer, truncated or inconsistent file."""
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read("header.json"))
            _check_header(header, path)
            names = GREEDY_ARRAYS if header.get("sampling") is None else (*GREEDY_ARRAYS, *SAMPLED_ARRAYS)
            arrays = {
                name: np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
                for name in names
            }
    except FileNotFoundError:
        raise InputError(f"there is no agreement trace at {path}") from None
    except InputError:
        raise
    except Exception as error:  # a damaged zip or array raises whatever its decoder came upon
        raise InputError(f"{path} is not an agreement trace, or it is damaged ({error}); record it again") from None
    try:
        return _trace(header, arrays)
    except InputError as error:
        raise InputError(f"agreement trace {path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"agreement trace {path} is damaged: its header does not fit ({error!r})") from None


def _check_header(header: Any, path: Path) -> None:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is not an agreement trace (its header does not say {FORMAT})")
    if header.get("version") != VERSION:
        raise InputError(
            f"{path} is a trace of version {header.get('version')!r} and this release reads {VERSION}: record it "
            "again, or use the release that wrote it"
        )


def _trace(header: dict[str, Any], arrays: dict[str, Any]) -> AgreementTrace:
    sampling = header["sampling"]
    return AgreementTrace(
        networks=tuple(NetworkSpec(**network) for network in header["networks"]),
        exits=tuple(Exit(str(network), int(layer)) for network, layer in header["exits"]),
        labels=arrays["labels"],
        starts=arrays["starts"],
        prompts=tuple(
            Prompt(str(name), str(group), str(sha256), int(tokens)) for name, group, sha256, tokens in header["prompts"]
        ),
        off_path=OffPath(arrays["off_path_at"], arrays["off_path_rows"]),
        sampling=None
        if sampling is None
        else Sampling(
            float(sampling["temperature"]), float(sampling["top_p"]), *(arrays[name] for name in SAMPLED_ARRAYS)
        ),
        provenance=dict(header["provenance"]),
    )


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # equal traces are equal files
    entry.compress_type = zipfile.ZIP_LZMA  # half the size of deflate on labels
    archive.writestr(entry, data)
