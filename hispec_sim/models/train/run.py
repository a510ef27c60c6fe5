"""A whole run: from a time budget to steps, through interruptions, to a trained network."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.models.train.checkpoint import NAME as CHECKPOINT
from hispec_sim.models.train.loop import Trainer
from hispec_sim.models.train.plan import mean_layers
from hispec_sim.models.train.probe import probe
from hispec_sim.models.train.recipe import Recipe
from hispec_sim.models.train.run_folder import CURVE, HELD_OUT, TRAINING, read_settings, read_stream
from hispec_sim.models.train.span import Speed

MARGIN = 0.93
"""Share of the budget that steps are planned for; the rest is for probes, checkpoints and a busier machine."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    step: int
    steps: int
    tokens_per_s: float
    """Over the last probe's stretch."""
    left_s: float
    losses: dict[int, float]
    """Text loss in nats by exit layer of the last step."""
    probed: dict[str, dict[int, float]] | None
    """Held-out numbers, where this step was followed by a look at them."""


def steps_within(recipe: Recipe, stream: np.ndarray, speed: Speed, budget_s: float) -> int:
    """How many steps of this recipe fit in a time budget here: times a shallow and a full step, and takes the plan's
    mean. Raises InputError if it is not even one hundred."""
    trainer = Trainer(replace(recipe, steps=1, shallow_share=0.0, layer_dropout=0.0), stream, speed)
    depths = (max(1, recipe.n_layers // 4), recipe.n_layers)
    seconds = []
    for depth in depths:
        exits = tuple(layer for layer in recipe.exits if layer < depth)[-recipe.drawn_exits :]
        seconds.append(min(trainer.time_step(depth, exits) for _ in range(5)))
    per_layer = max(0.0, (seconds[1] - seconds[0]) / (depths[1] - depths[0])) if depths[1] > depths[0] else 0.0
    mean, _ = mean_layers(replace(recipe, steps=1000))
    steps = int(MARGIN * budget_s / (seconds[1] + per_layer * (mean - depths[1])))
    if steps < 100:
        raise InputError(f"a budget of {budget_s:.0f} s is enough for {steps} steps here; at least 100 are needed")
    return steps


def train(
    folder: Path,
    *,
    show: Callable[[Progress], None] = lambda _: None,
    checkpoint_every_s: float = 240.0,
    probe_every: int = 100,
    stop_after: int | None = None,
) -> Trainer:
    """Run or resume the training whose settings stand in `folder`, until its last step, an interruption (SIGINT or
    SIGTERM: the step is finished and a checkpoint written) or `stop_after` steps in all."""
    settings = read_settings(folder)
    recipe = settings.recipe
    trainer = Trainer(recipe, read_stream(folder, TRAINING), settings.speed)
    held_out = read_stream(folder, HELD_OUT)
    spent_s = 0.0
    if (folder / CHECKPOINT).exists():
        spent_s = float(trainer.load(folder)["spent_s"])
    _cut_curve(folder, trainer.step)
    last = recipe.steps if stop_after is None else min(recipe.steps, stop_after)
    began = saved = stretch = time.monotonic()
    stretch_step, rate = trainer.step, 0.0
    with _interruptions() as interrupted:
        while trainer.step < last and not interrupted:
            losses = trainer.train_step()
            now = time.monotonic()
            probed = None
            if trainer.step % probe_every == 0 or trainer.step == recipe.steps:
                probed = probe(trainer.network, held_out, recipe.context, sorted(recipe.exits))
                entry = {"step": trainer.step, "tokens": trainer.step * recipe.tokens_per_step, **probed}
                _add(folder, {**entry, "spent_s": round(spent_s + now - began, 1)})
            if now - stretch > 5 or rate == 0:
                rate = (trainer.step - stretch_step) * recipe.tokens_per_step / max(now - stretch, 1e-9)
            if now - stretch > 60:
                stretch, stretch_step = now, trainer.step
            left_s = (recipe.steps - trainer.step) * recipe.tokens_per_step / rate
            show(Progress(trainer.step, recipe.steps, rate, left_s, losses, probed))
            if now - saved > checkpoint_every_s:
                trainer.save(folder, {"spent_s": spent_s + now - began})
                saved = time.monotonic()
    trainer.save(folder, {"spent_s": spent_s + time.monotonic() - began})
    return trainer


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """What the probes of a run saw, in order; empty before the first."""
    path = folder / CURVE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _add(folder: Path, entry: dict[str, Any]) -> None:
    with (folder / CURVE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _cut_curve(folder: Path, step: int) -> None:
    """Drop what was seen after the checkpoint that a run resumes from: it will be seen again."""
    kept = [entry for entry in read_curve(folder) if entry["step"] <= step]
    (folder / CURVE).write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Collects the first interruption instead of letting it break into a step; the second one breaks in."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        for number in before:
            signal.signal(number, receive)
    except ValueError:  # not in the main thread: nothing reaches us there
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
