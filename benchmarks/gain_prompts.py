"""Prompts to tune on and other prompts to test on, from different documents where the documents are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hispec_sim.errors import InputError

Tokens = list[int]


@dataclass(frozen=True, slots=True)
class Split:
    """Prompts of equal length, as token ids."""

    tuning: list[Tokens]
    test: list[Tokens]
    disjoint: str
    """How the two differ, in words."""


def documents_of(stream: np.ndarray, end_of_text: int = 0) -> list[Tokens]:
    """The documents of a token stream, each without the end-of-text token before it."""
    parts = np.split(stream, np.flatnonzero(stream == end_of_text))
    return [part[1:].tolist() if part.size and part[0] == end_of_text else part.tolist() for part in parts]


def windows_of(documents: Sequence[Tokens], tokens: int) -> list[list[Tokens]]:
    """Each document's windows of `tokens` tokens, which do not overlap; a document without any is left out."""
    found = [[d[at : at + tokens] for at in range(0, len(d) - tokens + 1, tokens)] for d in documents]
    return [windows for windows in found if windows]


def split_groups(groups: Sequence[list[Tokens]], n_tuning: int, n_test: int, seed: int) -> Split:
    """Prompts for both sides; the prompts of one group serve one side only. Raises InputError if they are too few."""
    sides: tuple[list[Tokens], list[Tokens]] = ([], [])
    counts = [0, 0]
    for index in np.random.default_rng(seed).permutation(len(groups)):
        side = int(len(sides[0]) * n_test > len(sides[1]) * n_tuning)  # the one that lacks the larger share
        sides[side].extend(groups[index])
        counts[side] += 1
    if len(sides[0]) < n_tuning or len(sides[1]) < n_test:
        raise InputError(
            f"the text gives {len(sides[0])} tuning and {len(sides[1])} test prompts that are apart and long enough, "
            f"{n_tuning} and {n_test} are needed; ask for fewer with --tuning and --test, or give more or longer ones"
        )
    tuning, test = (
        [side[i] for i in np.linspace(0, len(side) - 1, n).round().astype(int)]
        for side, n in zip(sides, (n_tuning, n_test), strict=True)
    )
    return Split(tuning, test, f"from different documents or topics ({counts[0]} and {counts[1]} of them)")


def split_file(
    path: Path, encode: Callable[[str], Tokens], tokens: int, n_tuning: int, n_test: int, seed: int
) -> Split:
    """The beginnings of a JSON Lines file's prompts, {"prompt": text, "topic": what they share}.

    Prompts of one topic serve one side only, if that leaves enough of them. Raises InputError for a file that cannot be
    read or has too few prompts of that length.
    """
    topics: dict[str, list[Tokens]] = {}
    try:
        for line in dict.fromkeys(path.read_text(encoding="utf-8").splitlines()):
            if line.strip():
                row = json.loads(line)
                ids = encode(str(row["prompt"]))[:tokens]
                topics.setdefault(str(row.get("topic", line)), []).extend([ids] if len(ids) == tokens else [])
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{path} cannot be read as lines of {{"prompt": "..."}} ({type(error).__name__}: {error})'
        ) from None
    groups = [group for group in topics.values() if group]
    try:
        return split_groups(groups, n_tuning, n_test, seed)
    except InputError:
        apart = split_groups([[prompt] for group in groups for prompt in group], n_tuning, n_test, seed)
        return Split(apart.tuning, apart.test, "different lines of one file")
