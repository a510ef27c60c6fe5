"""From a run to a model folder that `load_folder` and transformers read, with its numbers and its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from hispec_sim.errors import InputError
from hispec_sim.models.files.safetensors_folder import load_folder, save_folder
from hispec_sim.models.files.tokenizer import Tokenizer
from hispec_sim.models.llama import Llama
from hispec_sim.models.ranking import TokenRanking, count_ranking, write_ranking
from hispec_sim.models.train.card import model_card
from hispec_sim.models.train.checkpoint import NAME as CHECKPOINT
from hispec_sim.models.train.checkpoint import load_weights, read_rest
from hispec_sim.models.train.evaluate import Evaluation, Plan, evaluate
from hispec_sim.models.train.held_out_prompts import PROMPTS_FILE, held_out_prompts, prompts_file
from hispec_sim.models.train.run import read_curve
from hispec_sim.models.train.run_folder import HELD_OUT, MODEL, TRAINING, read_settings, read_stream, read_vocabulary
from hispec_sim.models.train.vocabulary import END_OF_TEXT


def trained_network(folder: Path) -> tuple[Llama, int]:
    """The network of a run's checkpoint as it is shipped (rounded to fp16, computing in fp32), and the steps it has
    made. Raises InputError if the run has no checkpoint."""
    settings = read_settings(folder)
    rest = read_rest(folder)
    network = Llama(settings.recipe.config())
    load_weights(folder / CHECKPOINT, network)
    return network.half().float().eval().requires_grad_(False), int(rest["step"])


def evaluate_run(
    folder: Path, *, pairs: Sequence[tuple[int, int]] | None = None, plan: Plan | None = None
) -> Evaluation:
    """Measure a run's network on its held-out text, with the threads that it was trained with.

    `pairs` of (draft, middle) exit layers are chosen if none are given. Raises InputError for a pair that is not
    draft below middle, both among the recipe's exits.
    """
    settings = read_settings(folder)
    recipe = settings.recipe
    torch.set_num_threads(settings.speed.threads)
    chosen = default_pairs(sorted(recipe.exits), recipe.n_layers) if pairs is None else list(pairs)
    for draft, middle in chosen:
        if draft >= middle or {draft, middle} - set(recipe.exits):
            known = ", ".join(map(str, sorted(recipe.exits)))
            raise InputError(f"pair {draft},{middle}: give a draft and a deeper middle exit layer out of {known}")
    network, _ = trained_network(folder)
    return evaluate(network, read_stream(folder, HELD_OUT), sorted(recipe.exits), chosen, plan)


def default_pairs(exits: Sequence[int], n_layers: int) -> list[tuple[int, int]]:
    """Cheap drafts (exits 1 and 2) with middle exits at about an eighth to a third of the depth."""
    middles = [layer for layer in exits if n_layers / 8 <= layer <= n_layers / 3]
    return [(draft, middle) for draft in exits if draft <= 2 for middle in middles if draft < middle]


def training_ranking(folder: Path) -> TokenRanking:
    """How frequent the tokens are in a run's training text; the held-out text is not looked at."""
    settings = read_settings(folder)
    counted = f"the training text of the run: {settings.source.training_files} files of {settings.source.package}"
    return count_ranking(read_stream(folder, TRAINING), settings.recipe.vocab_size, counted)


def export_model(folder: Path, evaluation: Evaluation) -> Path:
    """Write the run's model folder, replacing an earlier one: fp16 weights, tokenizer, held-out prompts,
    evaluation.json, README.md."""
    settings = read_settings(folder)
    network, steps = trained_network(folder)
    target, staging = folder / MODEL, folder / f"{MODEL}.new"
    shutil.rmtree(staging, ignore_errors=True)
    save_folder(network.half(), staging)
    tokenizer = Tokenizer(read_vocabulary(folder), stop_ids=[0], special_tokens={"eos_token": END_OF_TEXT})
    for name, text in tokenizer.files().items():
        (staging / name).write_text(text, encoding="utf-8")
    prompts = held_out_prompts(read_stream(folder, HELD_OUT), tokenizer)
    (staging / PROMPTS_FILE).write_text(prompts_file(prompts), encoding="utf-8")
    write_ranking(training_ranking(folder), staging)
    numbers = {"steps": steps, **settings.to_json(), "evaluation": asdict(evaluation)}
    (staging / "evaluation.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    megabytes = sum(file.stat().st_size for file in staging.glob("*.safetensors")) / 1e6
    card = model_card(settings, steps, parameters, megabytes, read_curve(folder), evaluation)
    (staging / "README.md").write_text(card, encoding="utf-8")
    check = load_folder(staging)
    if not torch.equal(check.embedding.weight, network.float().embedding.weight):
        raise AssertionError("an exported model must be the network that was trained")
    if target.exists():
        shutil.rmtree(target)
    staging.rename(target)
    return target
