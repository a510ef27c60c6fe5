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


def split_documents(documents: Sequence[Tokens], tokens: int, n_tuning: int, n_test: int, seed: int) -> Split:
    """Windows of `tokens` tokens: every document serves one side only, and no two windows overlap.

    Raises InputError if the documents are too few or too short.
    """
    long_enough = [document for document in documents if len(document) >= tokens]
    order = np.random.default_rng(seed).permutation(len(long_enough))
    sides: list[list[Tokens]] = [[], []]
    windows = [0, 0]
    for index in order:  # to the side that lacks the larger share of what it needs
        side = int(windows[0] * n_test > windows[1] * n_tuning)
        sides[side].append(long_enough[index])
        windows[side] += len(long_enough[index]) // tokens
    if windows[0] < n_tuning or windows[1] < n_test:
        raise InputError(
            f"the text gives {windows[0]} tuning and {windows[1]} test prompts of {tokens} tokens from different "
            f"documents, {n_tuning} and {n_test} are asked for; ask for fewer or shorter prompts, or give more text"
        )
    tuning, test = (
        _spread([d[at : at + tokens] for d in side for at in range(0, len(d) - tokens + 1, tokens)], n)
        for side, n in zip(sides, (n_tuning, n_test), strict=True)
    )
    return Split(tuning, test, f"from different documents ({len(sides[0])} and {len(sides[1])} of them)")


def _spread(windows: list[Tokens], n: int) -> list[Tokens]:
    return [windows[i] for i in np.linspace(0, len(windows) - 1, n).round().astype(int)]


def split_file(
    path: Path, encode: Callable[[str], Tokens], tokens: int, n_tuning: int, n_test: int, seed: int
) -> Split:
    """The beginnings of a JSON Lines file's prompts, {"prompt": text} each, dealt out at random.

    Raises InputError for a file that cannot be read or has too few prompts of that length.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        texts = [str(row["prompt"]) for row in rows]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{path} cannot be read as lines of {{"prompt": "..."}} ({type(error).__name__}: {error})'
        ) from None
    prompts = [ids[:tokens] for ids in map(encode, dict.fromkeys(texts)) if len(ids) >= tokens]
    if len(prompts) < n_tuning + n_test:
        raise InputError(
            f"{path} has {len(prompts)} different prompts of {tokens} tokens or more, {n_tuning + n_test} are needed; "
            "give more or longer prompts, or ask for fewer with --tuning and --test"
        )
    order = np.random.default_rng(seed).permutation(len(prompts))[: n_tuning + n_test]
    chosen = [prompts[i] for i in order]
    return Split(chosen[:n_tuning], chosen[n_tuning:], "different lines of one file")
