"""Teacher text on disk: chunks of sequences that the network wrote, one safetensors file each.

A chunk follows from the settings and its number alone, so text that was interrupted goes on where it stopped, and is
the text that an uninterrupted run would have written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from hispec_sim.errors import InputError
from hispec_sim.models.distil.prompts import Prompt
from hispec_sim.models.distil.write import Assignment, Written, write
from hispec_sim.models.llama import Llama
from hispec_sim.models.optional import optional

SEQUENCES = {False: 512, True: 192}
"""Sequences of a chunk, held-out or not. When few of them are left to write, the network works for few: a chunk should
be several times what is written at once. Held-out text is written in full precision, several times slower."""
NEW_TOKENS = (32, 256)
OPENING = (0, 8)
TEMPERATURES = (0.0, 0.0, 0.7, 1.0)
"""Half of the sequences are greedy."""
SIDES = {False: "training", True: "held_out"}


class PromptSource(Protocol):
    """Where prompts come from."""

    def draw(self, rng: np.random.Generator, *, held_out: bool) -> Prompt:
        """A random prompt of one side."""
        ...


class Teacher:
    """A network that writes chunks of text for a run into a folder."""

    def __init__(
        self,
        network: Llama,
        prompts: PromptSource,
        encode: Callable[[str], Sequence[int]],
        stop_ids: Collection[int],
        folder: Path,
        seed: int,
        rounded: Llama | None = None,
    ) -> None:
        """`rounded`, if given, writes what is trained on; what is held out is always the network's own to the last
        digit."""
        self._rounded = network if rounded is None else rounded
        self._network, self._prompts, self._encode = network, prompts, encode
        self._stop_ids, self._folder, self._seed = frozenset(stop_ids), folder, seed

    def add_chunk(self, number: int, *, held_out: bool, keep_on: Callable[[], bool] = lambda: True) -> bool:
        """Write chunk `number` of one side to disk; False, and nothing is written, if `keep_on` said no."""
        began = time.monotonic()
        rng = np.random.default_rng([self._seed, 1 + held_out, number])
        assignments = [self._assign(rng, held_out) for _ in range(SEQUENCES[held_out])]
        generator = torch.Generator(device=self._network.embedding.weight.device)
        generator.manual_seed(int(rng.integers(2**62)))
        network = self._network if held_out else self._rounded
        written = write(network, assignments, self._stop_ids, generator, keep_on)
        if written is None:
            return False
        save_chunk(chunk_path(self._folder, number, held_out=held_out), written, time.monotonic() - began)
        return True

    def _assign(self, rng: np.random.Generator, held_out: bool) -> Assignment:
        prompt = self._prompts.draw(rng, held_out=held_out)
        positions = self._network.config.max_positions
        new_tokens = min(int(rng.integers(NEW_TOKENS[0], NEW_TOKENS[1] + 1)), max(1, positions // 2))
        ids = list(self._encode(prompt.text))[: positions - new_tokens]
        if not ids:
            raise InputError(f"the prompt {prompt.text[:60]!r} has no tokens")
        temperature = TEMPERATURES[int(rng.integers(len(TEMPERATURES)))]
        return Assignment(ids, prompt.topic, new_tokens, temperature, int(rng.integers(OPENING[0], OPENING[1] + 1)))


def chunk_path(folder: Path, number: int, *, held_out: bool) -> Path:
    """Where a chunk lies."""
    return folder / SIDES[held_out] / f"{number:05d}.safetensors"


def save_chunk(path: Path, written: Sequence[Written], seconds: float) -> None:
    """Write a chunk in one move."""
    about = {
        "seconds": seconds,
        "new_tokens": sum(each.new_tokens for each in written),
        "sequences": [
            {"topic": w.topic, "greedy": w.greedy, "tokens": len(w.tokens), "prompt_tokens": w.prompt_tokens}
            for w in written
        ],
    }
    tensors = {
        "tokens": torch.tensor([token for each in written for token in each.tokens], dtype=torch.int32),
        "choices": torch.cat([each.choices for each in written]),
        "log_probs": torch.cat([each.log_probs for each in written]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".new")
    optional("safetensors.torch").save_file(tensors, unfinished, metadata={"chunk": json.dumps(about)})
    unfinished.replace(path)


def about_chunk(path: Path) -> dict[str, Any]:
    """How many new tokens a chunk holds, the seconds they took, and its sequences. Raises InputError if damaged."""
    safetensors = optional("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["chunk"])
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it and resume, it will be written again") from None
    return dict(about)


def load_chunk(path: Path) -> list[Written]:
    """The sequences of a chunk. Raises InputError if the file is damaged."""
    about = about_chunk(path)
    tensors = optional("safetensors.torch").load_file(path)
    sizes = [(each["tokens"], each["tokens"] - each["prompt_tokens"]) for each in about["sequences"]]
    tokens = tensors["tokens"].split([size for size, _ in sizes])
    choices, log_probs = (tensors[key].split([new for _, new in sizes]) for key in ("choices", "log_probs"))
    return [
        Written(each["topic"], each["greedy"], ids.tolist(), each["prompt_tokens"], mine, theirs)
        for each, ids, mine, theirs in zip(about["sequences"], tokens, choices, log_probs, strict=True)
    ]


def chunks_there(folder: Path, *, held_out: bool) -> list[Path]:
    """The chunks of one side from number 0 on, without a gap."""
    found: list[Path] = []
    while (path := chunk_path(folder, len(found), held_out=held_out)).is_file():
        found.append(path)
    return found
