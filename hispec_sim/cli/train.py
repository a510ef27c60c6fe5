"""`hispec train`: train the project's own early-exit network, and measure how its exits agree."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from hispec_sim.cli.durations import duration, seconds_of
from hispec_sim.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hispec_sim.models.train.agreement import Pair
    from hispec_sim.models.train.evaluate import Evaluation
    from hispec_sim.models.train.recipe import Recipe
    from hispec_sim.models.train.run import Progress as Stand
    from hispec_sim.models.train.run_folder import Settings

train_app = typer.Typer(help="Train and measure the reference early-exit network.", no_args_is_help=True)
PIPED_WIDTH = 130


@train_app.callback()
def _train() -> None:
    """Train and measure the reference early-exit network."""


@train_app.command("reference")
def reference_command(
    out: Annotated[Path, typer.Option(help="Folder of the run; the model comes into its model/.", show_default=False)],
    budget: Annotated[str, typer.Option(help="Time for training, such as 2.5h, 40m or 900s.")] = "2.5h",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Train exactly so many steps, instead of --budget.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, text and exits.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = min(2, os.cpu_count() or 1),
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="torch.compile.", show_default="if a compiler is there"),
    ] = None,
    bfloat16: Annotated[
        bool | None,
        typer.Option("--bf16/--no-bf16", help="Multiply in bfloat16.", show_default="if the CPU has it"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, with its settings.")] = False,
) -> None:
    """Train the reference network from scratch on Python source, with the LayerSkip recipe.

    Takes its text from the source of the installed transformers package. Ctrl-C leaves a checkpoint that --resume
    continues to the same weights. The same steps, seed and settings give the same weights on the same machine.
    """
    from hispec_sim.models.train.run import train
    from hispec_sim.models.train.run_folder import read_settings

    console = _console()
    settings = (
        read_settings(out)
        if resume
        else _start(out, seconds_of("--budget", budget), steps, seed, threads, (compiled, bfloat16))
    )
    tokens = settings.source.training_tokens
    console.print(
        f"{settings.recipe.steps} steps of {settings.recipe.tokens_per_step} tokens out of {tokens / 1e6:.1f}M; "
        f"{settings.speed}",
        soft_wrap=True,
        highlight=False,
    )
    with _shown(console, settings.recipe.steps) as show:
        trainer = train(out, show=show)
    if trainer.step < settings.recipe.steps:
        console.print(f"stopped after step {trainer.step}: continue with --resume --out {out}", soft_wrap=True)
        raise typer.Exit(130)
    _finish(out, console)


def _start(
    out: Path, budget_s: float, steps: int | None, seed: int, threads: int, asked: tuple[bool | None, bool | None]
) -> Settings:
    """Prepare a new run; `asked` is (compiled, bfloat16), None where the machine decides."""
    from hispec_sim.models.train.corpus import package_corpus
    from hispec_sim.models.train.recipe import Recipe
    from hispec_sim.models.train.reference import check_new, start
    from hispec_sim.models.train.span import Speed

    check_new(out)
    corpus = package_corpus()
    _console().print(f"learning a vocabulary from {len(corpus.training)} files of {corpus.source}", highlight=False)
    speed = Speed.best(threads)
    compiled, bfloat16 = (
        best if want is None else want for want, best in zip(asked, (speed.compiled, speed.bfloat16), strict=True)
    )
    speed = replace(speed, compiled=compiled, bfloat16=bfloat16)
    recipe: Recipe = Recipe(steps=steps or 1, seed=seed)
    return start(out, corpus, recipe, speed, budget_s=budget_s if steps is None else None)


def _finish(out: Path, console: Console) -> None:
    from hispec_sim.models.train.export import evaluate_run, export_model

    console.print("measuring agreement on the network's own text")
    evaluation = evaluate_run(out)
    model = export_model(out, evaluation)
    _print_evaluation(console, evaluation)
    console.print(f"written to {model}: try hispec decode --model {model}", soft_wrap=True, highlight=False)


@train_app.command("evaluate")
def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.", metavar="DIR")],
    prompts: Annotated[int, typer.Option(min=1, help="Beginnings of held-out text.")] = 48,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each beginning.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens that the network adds to each.")] = 128,
    temperature: Annotated[float, typer.Option(help="Of the sampled text.")] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling.")] = 1,
    pair: Annotated[
        list[str] | None,
        typer.Option(help="Draft and middle exit, such as 1,8; repeatable.", show_default="some that suit"),
    ] = None,
    export: Annotated[bool, typer.Option("--export", help="Write DIR/model with these numbers.")] = False,
) -> None:
    """Print how every exit agrees with the full network, on held-out text and on the network's own."""
    from hispec_sim.models.train.evaluate import Plan
    from hispec_sim.models.train.export import evaluate_run, export_model

    plan = Plan(prompts=prompts, prompt_tokens=prompt_tokens, new_tokens=new_tokens, temperature=temperature, seed=seed)
    console = _console()
    evaluation = evaluate_run(run, pairs=None if not pair else [_pair(text) for text in pair], plan=plan)
    _print_evaluation(console, evaluation)
    if export:
        console.print(f"written to {export_model(run, evaluation)}", soft_wrap=True, highlight=False)


def _pair(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+),(\d+)", text.strip())
    if not found:
        raise InputError(f"--pair must be two exit layers such as 1,8, got {text!r}")
    return int(found[1]), int(found[2])


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)


@contextmanager
def _shown(console: Console, steps: int) -> Iterator[Callable[[Stand], None]]:
    """A bar with rate and time left on a terminal, and a line for every look at held-out text anywhere."""
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=steps)

    def show(stand: Stand) -> None:
        left = f"{duration(stand.left_s)} left"
        text = f"step {stand.step}/{stand.steps}, {stand.tokens_per_s:.0f} tokens/s, {left}"
        bar.update(task, completed=stand.step, description=text)
        if stand.probed is not None:
            losses = " ".join(f"{layer}:{loss:.2f}" for layer, loss in stand.probed["loss"].items())
            console.print(f"{text}; held-out loss by exit {losses}", soft_wrap=True, highlight=False)

    with bar:
        yield show


def _print_evaluation(console: Console, found: Evaluation) -> None:
    from hispec_sim.models.train.card import cell

    table = Table(title=f"Agreement with all {found.n_layers} layers (± standard error over prompts)")
    names = ("exit", "loss", "held-out text", "greedy", "looped", "not looped", "sampled", "accepted")
    for name in names:
        table.add_column(name, justify="right")
    for r in found.exits:
        shares = (r.text, r.greedy, r.greedy_looped, r.greedy_new, r.sampled, r.accepted)
        table.add_row(str(r.exit_layer), f"{r.loss:.3f}", *map(cell, shares))
    table.add_row(str(found.n_layers), f"{found.full_loss:.3f}", *["1"] * 6)
    console.print(table)
    loops = f"{found.looped_greedy.value:.0%} of greedy and {found.looped_sampled.value:.0%} of sampled positions"
    console.print(
        f"{loops} are looped: they repeat eight tokens that stood before. accepted: chance that a sample passes "
        f"speculative rejection at temperature {found.plan.temperature:g}.",
        soft_wrap=True,
        highlight=False,
    )
    _print_pairs(console, "Pairs on greedy text", found.pairs)
    _print_pairs(console, "Pairs on sampled text, first choices", found.sampled_pairs)


def _print_pairs(console: Console, title: str, pairs: Sequence[Pair]) -> None:
    from hispec_sim.models.train.card import cell

    if not pairs:
        return
    table = Table(title=title)
    names = ("draft, middle", "P(middle = draft)", "P(full = middle)", "if middle = draft", "if they differ")
    for name in names:
        table.add_column(name, justify="right")
    for p in pairs:
        shares = (cell(p.full_if_same), cell(p.full_if_differ))
        table.add_row(f"{p.draft}, {p.middle}", cell(p.same), f"{p.full_if_independent:.3f}", *shares)
    console.print(table)
