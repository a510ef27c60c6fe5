"""The training loop: one step, and a run of steps that can be interrupted and resumed bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hispec_sim.models.llama import Llama
from hispec_sim.models.train.checkpoint import load_checkpoint, save_checkpoint
from hispec_sim.models.train.losses import exit_loss, log_probabilities, text_loss
from hispec_sim.models.train.plan import StepPlan, draw_windows, plan_step
from hispec_sim.models.train.recipe import Recipe
from hispec_sim.models.train.span import Speed, TrainingSpan, new_network


class Trainer:
    """A network in training: its weights, its optimizer, and how many steps it has made."""

    def __init__(self, recipe: Recipe, stream: np.ndarray, speed: Speed) -> None:
        """`stream`: the tokens to train on, shape (tokens,)."""
        torch.set_num_threads(speed.threads)
        self.recipe, self.stream, self.speed = recipe, stream, speed
        self.network: Llama = new_network(recipe)
        self.step = 0
        self._span = TrainingSpan(self.network, recipe.context, speed)
        self._read_out: Callable[..., Tensor] = (
            torch.compile(log_probabilities) if speed.compiled else log_probabilities
        )
        matrices = [p for p in self.network.parameters() if p.dim() > 1]
        vectors = [p for p in self.network.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            fused=True,
        )

    def train_step(self) -> dict[int, float]:
        """Make the next step; returns the text loss in nats at each exit layer that it read out."""
        recipe = self.recipe
        plan = plan_step(recipe, self.step)
        text = torch.from_numpy(draw_windows(recipe, self.step, self.stream))
        loss, shown = self.losses(plan, text)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return shown

    def time_step(self, depth: int, exits: tuple[int, ...]) -> float:
        """Seconds that a step of `depth` layers and these exits takes, weights left as they are."""
        plan = StepPlan(tuple(range(depth)), depth, exits, self.recipe.distill_share)
        text = torch.from_numpy(draw_windows(self.recipe, 0, self.stream))
        began = time.monotonic()
        loss, _ = self.losses(plan, text)
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        return time.monotonic() - began

    def losses(self, plan: StepPlan, text: Tensor) -> tuple[Tensor, dict[int, float]]:
        """The loss of a planned step on text of shape (batch, tokens + 1), and the text loss at each exit read out."""
        recipe, network = self.recipe, self.network
        targets = text[:, 1:].flatten()
        exits = (*plan.exits, plan.depth)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.speed.bfloat16):
            states = self._span(text[:, :-1], plan.layers, exits)
            *lower, deepest = (
                self._read_out(x, network.norm.weight, network.head.weight, network.config.norm_eps) for x in states
            )
        loss = text_loss(deepest, targets)
        shown = {plan.depth: loss.item()}
        for exit_layer, log_probs in zip(plan.exits, lower, strict=True):
            pull = recipe.pull if exit_layer >= recipe.pulling_from else 0.0
            part, text_part = exit_loss(deepest, log_probs, targets, plan.distill, pull)
            loss = loss + recipe.exit_scale * part
            shown[exit_layer] = text_part.item()
        return loss, shown

    def save(self, folder: Path, rest: dict[str, Any]) -> None:
        """Write a checkpoint with `rest` (plain data) beside the step and the recipe."""
        state = {"step": self.step, "recipe": self.recipe.to_json(), **rest}
        save_checkpoint(folder, self.network, self.optimizer, state)

    def load(self, folder: Path) -> dict[str, Any]:
        """Continue from a checkpoint of the same recipe; returns what was saved beside it."""
        rest = dict(load_checkpoint(folder, self.network, self.optimizer))
        self.step = int(rest["step"])
        return rest
