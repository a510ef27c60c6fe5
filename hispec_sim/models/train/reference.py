"""The project's reference network: starting its training in a new folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hispec_sim.errors import InputError
from hispec_sim.models.train.checkpoint import NAME as CHECKPOINT
from hispec_sim.models.train.corpus import Corpus
from hispec_sim.models.train.recipe import Recipe
from hispec_sim.models.train.run import steps_within
from hispec_sim.models.train.run_folder import (
    SETTINGS,
    TRAINING,
    Settings,
    prepare_text,
    read_stream,
    write_settings,
)
from hispec_sim.models.train.span import Speed


def check_new(folder: Path) -> None:
    """Raises InputError if the folder already holds a run, or is no place for one."""
    if (folder / SETTINGS).exists() or (folder / CHECKPOINT).exists():
        raise InputError(f"{folder} already holds a training run; continue it with --resume, or give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; give another place") from None


def start(folder: Path, corpus: Corpus, recipe: Recipe, speed: Speed, *, budget_s: float | None = None) -> Settings:
    """Prepare a folder for `train`: text, vocabulary, settings. With `budget_s`, the recipe's steps are replaced by
    what fits in it here. Raises InputError if the folder already holds a run."""
    check_new(folder)
    source = prepare_text(folder, corpus, recipe.vocab_size)
    if budget_s is not None:
        recipe = replace(recipe, steps=steps_within(recipe, read_stream(folder, TRAINING), speed, budget_s))
    settings = Settings(recipe, speed, source)
    write_settings(folder, settings)
    return settings
