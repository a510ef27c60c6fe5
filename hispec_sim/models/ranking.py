"""Which tokens of a vocabulary are the most frequent: counted from text, kept beside a model as token_ranking.json."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.models.files.hf_config import read_json

RANKING = "token_ranking.json"
"""The file's name in a model's folder."""


@dataclass(frozen=True, slots=True)
class TokenRanking:
    """Token ids, the most frequent first, each once; `counted` says in what text, `tokens` how many it had."""

    counted: str
    tokens: int
    ids: tuple[int, ...]


def count_ranking(stream: Sequence[int] | np.ndarray, vocab_size: int, counted: str) -> TokenRanking:
    """The ranking of a whole vocabulary by a stream of token ids, shape (tokens,). Equally frequent tokens, and those
    that never occur, stand in the order of their ids. Raises InputError for an empty stream, or a token outside."""
    if len(stream) == 0:
        raise InputError(f"{counted} holds no tokens to count; give a text")
    counts = np.bincount(np.asarray(stream), minlength=vocab_size)
    if len(counts) > vocab_size:
        raise InputError(
            f"{counted} holds the token {len(counts) - 1}, but the network has only {vocab_size} tokens: "
            "leave that token's text out, or take the tokenizer that belongs to the network"
        )
    return TokenRanking(counted, len(stream), tuple(np.argsort(-counts, kind="stable").tolist()))


def write_ranking(ranking: TokenRanking, folder: Path) -> None:
    """Write the ranking into a model's folder, all of it or nothing."""
    staging = folder / f".{RANKING}-{os.getpid()}"
    content = {"counted": ranking.counted, "tokens": ranking.tokens, "ids": list(ranking.ids)}
    staging.write_text(json.dumps(content) + "\n", encoding="utf-8")
    staging.rename(folder / RANKING)


def read_ranking(folder: Path, vocab_size: int) -> TokenRanking | None:
    """The ranking in a model's folder, if there is one. Raises InputError naming what is wrong with the file."""
    path = folder / RANKING
    if not path.is_file():
        return None
    content = read_json(path)
    cure = "delete the file, or put the right one in its place"
    counted, tokens, ids = (content.get(key) for key in ("counted", "tokens", "ids"))
    if not isinstance(counted, str) or type(tokens) is not int:
        raise InputError(f"{path}: counted must be a text and tokens a number, got {counted!r} and {tokens!r}: {cure}")
    if not isinstance(ids, list) or not ids:
        raise InputError(f"{path}: ids must be a list of token ids: {cure}")
    seen: set[int] = set()
    for token in ids:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise InputError(f"{path}: ids must be whole numbers from 0 to {vocab_size - 1}, not {token!r}: {cure}")
        if token in seen:
            raise InputError(f"{path}: ids must name every token once, but {token} stands there twice: {cure}")
        seen.add(token)
    return TokenRanking(counted, tokens, tuple(ids))
