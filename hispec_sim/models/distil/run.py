"""A whole run: text, steps, heads, through interruptions.

run.json  prompts.jsonl  training/*.safetensors  held_out/*.safetensors  checkpoint.safetensors  heads/
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import hispec_sim
from hispec_sim.errors import InputError
from hispec_sim.models.distil.evaluate import Agreement, agreement
from hispec_sim.models.distil.interruptions import keeping_on
from hispec_sim.models.distil.loop import BATCH, PASSES, HeadTrainer
from hispec_sim.models.distil.prompts import BuiltIn, FromFile, Prompt, read_prompts
from hispec_sim.models.distil.teacher import Teacher, about_chunk, chunk_path, chunks_there, load_chunk
from hispec_sim.models.distil.write import Written, fast_for_writing
from hispec_sim.models.exits import Kind
from hispec_sim.models.files.exit_files import save_heads
from hispec_sim.models.llama import Llama
from hispec_sim.models.train.checkpoint import NAME as CHECKPOINT

SETTINGS, PROMPTS, HEADS = "run.json", "prompts.jsonl", "heads"
HELD_OUT_SHARE, MOST_HELD_OUT = 0.05, 20_000
"""Tokens of held-out text, as a share of those to train on, and at most: what one chunk holds, since it is written in
full precision, several times slower."""
TEXT_SHARE, MARGIN, LOOKS_SHARE = 0.5, 0.88, 0.1
"""Share of a budget that writing text may take, of the rest that steps are planned for, and of the time of steps that
looks at held-out text may take."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run was asked for, and what it has settled since: numbers of chunks and of steps."""

    model: str
    exits: tuple[int, ...]
    kind: Kind
    tokens: int
    seed: int = 0
    threads: int = 1
    budget_s: float | None = None
    passes: int = PASSES
    command: str = ""
    chunks: int | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a run stands: `done` of `total` tokens of text, or steps of training."""

    what: str
    done: int
    total: int
    tokens_per_s: float
    left_s: float
    note: str = ""


def start(folder: Path, settings: Settings, given: Sequence[Prompt]) -> None:
    """Make the folder of a new run, with prompts of its own if any are given. Raises InputError if it is taken."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already holds something; continue its run with --resume, or give another place")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; give another place") from None
    if given:
        lines = [json.dumps({"prompt": each.text, "topic": each.topic}) + "\n" for each in given]
        (folder / PROMPTS).write_text("".join(lines), encoding="utf-8")
    _write_settings(folder, settings)


def check_exits(settings: Settings, network: Llama) -> None:
    """Raises InputError unless the exit layers are different exits of the network, shallow to deep."""
    n_layers = network.config.shape.n_layers
    rising = list(settings.exits) == sorted(set(settings.exits))
    if not settings.exits or not rising or settings.exits[0] < 1 or settings.exits[-1] >= n_layers:
        raise InputError(
            f"--exits must be different layers from 1 to {n_layers - 1}, shallow to deep, got "
            f"{','.join(map(str, settings.exits))}"
        )


def read_settings(folder: Path) -> Settings:
    """The settings of a run. Raises InputError if there is none."""
    path = folder / SETTINGS
    if not path.is_file():
        raise InputError(f"there is no {SETTINGS} in {folder}: no run to resume")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Settings(**{**content, "exits": tuple(content["exits"]), "kind": Kind(content["kind"])})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); begin a new run") from None


def more_passes(folder: Path, passes: int) -> None:
    """Let the run in `folder` go over its text `passes` times in all: a finished run trains on, at the learning rate
    that a run of so many passes has from that step on. Raises InputError if it already has as many.
    """
    settings = read_settings(folder)
    if passes <= settings.passes:
        raise InputError(
            f"--passes {passes} with --resume: the run in {folder} has {settings.passes} already; give more, or leave "
            "--passes out to go on with it"
        )
    command = f"{settings.command}; hispec train exits --resume --passes {passes} --out {folder}"
    _write_settings(folder, replace(settings, passes=passes, steps=None, budget_s=None, command=command))


def run(
    folder: Path,
    network: Llama,
    encode: Callable[[str], Sequence[int]],
    stop_ids: Collection[int],
    *,
    show: Callable[[Stand], None] = lambda stand: None,
    checkpoint_every_s: float = 240.0,
) -> list[Agreement] | None:
    """Run or resume what stands in `folder`: the heads come into its heads/, and their held-out agreement is returned.

    None if it was interrupted (SIGINT or SIGTERM), which leaves all that it had done. Raises InputError if
    an exit is no exit of the network.
    """
    settings = read_settings(folder)
    check_exits(settings, network)
    given = (folder / PROMPTS).is_file()
    prompts = FromFile(read_prompts(folder / PROMPTS), settings.seed) if given else BuiltIn(settings.seed)
    teacher = Teacher(network, prompts, encode, stop_ids, folder, settings.seed, fast_for_writing(network))
    with keeping_on() as keep_on:
        chunks = _write_text(teacher, folder, settings, show, keep_on)
        if chunks is None:
            return None
        text_s = sum(about_chunk(path)["seconds"] for path in chunks)
        sequences = [each for path in chunks for each in load_chunk(path)]
        held_out = [each for path in chunks_there(folder, held_out=True) for each in load_chunk(path)]
        settings = replace(settings, chunks=len(chunks))
        if settings.steps is None:
            settings = replace(settings, steps=_steps(settings, network, sequences, text_s))
            _write_settings(folder, settings)
        trainer = _train(folder, settings, network, sequences, held_out, show, keep_on, checkpoint_every_s)
    if trainer.step < trainer.steps:
        return None
    found = agreement(network, trainer.heads, held_out)
    provenance = {
        "command": settings.command,
        "version": hispec_sim.__version__,
        "model": settings.model,
        "seed": settings.seed,
        "tokens": sum(each.new_tokens for each in sequences),
        "held_out_tokens": sum(each.new_tokens for each in held_out),
        "steps": trainer.steps,
        "agreement": [asdict(each) for each in found],
    }
    save_heads(folder / HEADS, network, trainer.heads, provenance)
    return found


def _write_text(
    teacher: Teacher, folder: Path, settings: Settings, show: Callable[[Stand], None], keep_on: Callable[[], bool]
) -> list[Path] | None:
    """The chunks to train on, once all text is there; None if interrupted."""
    most = {True: min(MOST_HELD_OUT, max(1, int(HELD_OUT_SHARE * settings.tokens))), False: settings.tokens}
    total, limit_s = sum(most.values()), (settings.budget_s or float("inf")) * TEXT_SHARE
    everything, seconds = 0, 0.0
    chunks: list[Path] = []
    for held_out in (True, False):
        chunks = chunks_there(folder, held_out=held_out)[: None if held_out else settings.chunks]
        tokens = 0
        for about in map(about_chunk, chunks):
            tokens, seconds = tokens + about["new_tokens"], seconds + about["seconds"]
        settled = None if held_out else settings.chunks
        while (
            (tokens < most[held_out] and (not chunks or seconds < limit_s))
            if settled is None
            else len(chunks) < settled
        ):
            if not keep_on() or not teacher.add_chunk(len(chunks), held_out=held_out, keep_on=keep_on):
                return None
            chunks.append(chunk_path(folder, len(chunks), held_out=held_out))
            about = about_chunk(chunks[-1])
            tokens, seconds = tokens + about["new_tokens"], seconds + about["seconds"]
            rate = (everything + tokens) / max(seconds, 1e-9)
            left_s = min(max(0, total - everything - tokens) / rate, max(0.0, limit_s - seconds))
            show(Stand("text", min(everything + tokens, total), total, rate, left_s))
        everything += tokens
    return chunks


def _steps(settings: Settings, network: Llama, sequences: Sequence[Written], text_s: float) -> int:
    """Steps for all passes over the text, or as many as the rest of the budget allows at the pace of the first pass,
    timed here."""
    steps = max(1, settings.passes * len(sequences) // BATCH)
    if settings.budget_s is None:
        return steps
    trainer = HeadTrainer(network, settings.exits, settings.kind, sequences, steps=1, seed=settings.seed, room_bytes=0)
    trainer.try_step()
    began = time.monotonic()
    for _ in range(2):
        trainer.try_step()
    step_s = (time.monotonic() - began) / 2
    return max(1, min(steps, int(MARGIN * (settings.budget_s - text_s) / step_s)))


def _train(
    folder: Path,
    settings: Settings,
    network: Llama,
    sequences: Sequence[Written],
    held_out: Sequence[Written],
    show: Callable[[Stand], None],
    keep_on: Callable[[], bool],
    checkpoint_every_s: float,
) -> HeadTrainer:
    assert settings.steps is not None
    trainer = HeadTrainer(network, settings.exits, settings.kind, sequences, steps=settings.steps, seed=settings.seed)
    if (folder / CHECKPOINT).is_file():
        trainer.load(folder)
    per_step = BATCH * sum(each.new_tokens for each in sequences) / len(sequences)
    began = saved = time.monotonic()
    first, look_s = trainer.step, 0.0
    while trainer.step < trainer.steps and keep_on():
        losses = trainer.train_step()
        note = "divergence " + " ".join(f"{layer}:{loss:.2f}" for layer, loss in losses.items())
        looked = time.monotonic()
        if trainer.step % max(1, trainer.steps // 10) == 0 and look_s <= LOOKS_SHARE * (looked - began):
            seen = agreement(network, trainer.heads, held_out[:BATCH])
            look_s += time.monotonic() - looked
            note += "; held-out agreement " + " ".join(f"{each.exit_layer}:{each.share:.3f}" for each in seen)
        now = time.monotonic()
        step_s = (now - began - look_s) / (trainer.step - first)
        left_s = step_s * (trainer.steps - trainer.step)
        show(Stand("training", trainer.step, trainer.steps, per_step / step_s, left_s, note))
        if now - saved > checkpoint_every_s:
            trainer.save(folder, {})
            saved = now
    trainer.save(folder, {})
    return trainer


def _write_settings(folder: Path, settings: Settings) -> None:
    unfinished = folder / f"{SETTINGS}.new"
    unfinished.write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder / SETTINGS)


def use_threads(threads: int) -> None:
    """Let torch use so many processor threads."""
    torch.set_num_threads(threads)
