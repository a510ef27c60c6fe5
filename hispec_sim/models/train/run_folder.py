"""The folder of one training run: settings, vocabulary, token streams, checkpoint and, in the end, the model.

run.json  tokenizer.json  training.npy  held_out.npy  checkpoint.safetensors  curve.jsonl  model/
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.models.files.tokenizer import read_core
from hispec_sim.models.train.corpus import Corpus
from hispec_sim.models.train.recipe import Recipe
from hispec_sim.models.train.span import Speed
from hispec_sim.models.train.vocabulary import token_stream, train_vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SETTINGS, VOCABULARY, TRAINING, HELD_OUT, CURVE, MODEL = (
    "run.json", "tokenizer.json", "training.npy", "held_out.npy", "curve.jsonl", "model",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """Where the text of a run comes from."""

    package: str
    digest: str
    training_files: int
    held_out_files: int
    held_out_folders: tuple[str, ...]
    training_tokens: int
    held_out_tokens: int
    held_out_bytes: int
    shared_lines: float
    """Share of long held-out lines that also stand in the training text."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a run was started with."""

    recipe: Recipe
    speed: Speed
    source: Source

    def to_json(self) -> dict[str, Any]:
        """Plain data for run.json."""
        return {"recipe": self.recipe.to_json(), "speed": asdict(self.speed), "source": asdict(self.source)}


def prepare_text(folder: Path, corpus: Corpus, vocab_size: int) -> Source:
    """Learn the vocabulary on the training documents alone, and write it and both token streams."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_vocabulary((document.text for document in corpus.training), vocab_size)
    tokenizer.save(str(folder / VOCABULARY))
    training, held_out = token_stream(tokenizer, corpus.training), token_stream(tokenizer, corpus.held_out)
    np.save(folder / TRAINING, training)
    np.save(folder / HELD_OUT, held_out)
    return Source(
        package=corpus.source,
        digest=corpus.digest,
        training_files=len(corpus.training),
        held_out_files=len(corpus.held_out),
        held_out_folders=tuple(sorted({document.folder for document in corpus.held_out})),
        training_tokens=len(training),
        held_out_tokens=len(held_out),
        held_out_bytes=sum(len(document.text.encode()) for document in corpus.held_out),
        shared_lines=corpus.shared_lines(),
    )


def write_settings(folder: Path, settings: Settings) -> None:
    """Write run.json: from here on the run can be resumed."""
    (folder / SETTINGS).write_text(json.dumps(settings.to_json(), indent=1) + "\n", encoding="utf-8")


def read_settings(folder: Path) -> Settings:
    """What run.json says. Raises InputError if the folder is not a run's."""
    path = folder / SETTINGS
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        source = Source(**{**data["source"], "held_out_folders": tuple(data["source"]["held_out_folders"])})
        return Settings(Recipe.from_json(data["recipe"]), Speed(**data["speed"]), source)
    except FileNotFoundError:
        raise InputError(f"{folder} is not the folder of a training run: it holds no {SETTINGS}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def read_stream(folder: Path, name: str) -> np.ndarray:
    """TRAINING or HELD_OUT: uint16 tokens of shape (tokens,). Raises InputError if it is missing or damaged."""
    try:
        stream = np.load(folder / name, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / name} cannot be read: {error}") from None
    if stream.dtype != np.uint16 or stream.ndim != 1:
        raise InputError(f"{folder / name} is not a stream of tokens")
    return stream


def read_vocabulary(folder: Path) -> Tokenizer:
    """The run's vocabulary. Raises InputError if it is missing or damaged."""
    path = folder / VOCABULARY
    if not path.is_file():
        raise InputError(f"{folder} holds no {VOCABULARY}; it is not the folder of a training run")
    return cast("Tokenizer", read_core(path))
