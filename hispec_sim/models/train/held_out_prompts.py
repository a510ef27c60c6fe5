"""Beginnings of held-out files, as text: what the trained network can be asked to go on with."""

from __future__ import annotations

import json

import numpy as np

from hispec_sim.models.files.tokenizer import INCOMPLETE, Tokenizer

PROMPTS, PROMPT_TOKENS = 192, 64
PROMPTS_FILE = "prompts.jsonl"
DOCUMENT_START = 0
"""The token before every document of a stream."""


def held_out_prompts(stream: np.ndarray, tokenizer: Tokenizer, prompts: int = PROMPTS) -> list[dict[str, str]]:
    """About `prompts` excerpts of `PROMPT_TOKENS` tokens of a stream, spread evenly over it: `prompt`, and as `topic`
    the file it is from. None crosses from one file into the next."""
    starts = np.linspace(0, len(stream) - PROMPT_TOKENS, prompts).astype(int)
    files = np.cumsum(stream == DOCUMENT_START)
    found = []
    for start in np.unique(starts):
        window = stream[start : start + PROMPT_TOKENS]
        text = tokenizer.decode(window.tolist())
        if (window[1:] != DOCUMENT_START).all() and INCOMPLETE not in text:
            found.append({"prompt": text, "topic": f"file {files[start]}"})
    return found


def prompts_file(prompts: list[dict[str, str]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(prompt) + "\n" for prompt in prompts)
