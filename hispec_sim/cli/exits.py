"""`hispec train exits`: train exit heads for a network that was not made to exit early."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from hispec_sim.cli.durations import duration, seconds_of
from hispec_sim.cli.output import table_console
from hispec_sim.errors import InputError

if TYPE_CHECKING:
    from hispec_sim.models.distil.evaluate import Agreement
    from hispec_sim.models.distil.prompts import Prompt
    from hispec_sim.models.distil.run import Settings, Stand

PASSES = 3
"""Passes over the text unless the user says otherwise."""
INTERRUPTED = 130
CORPUS = "corpus"
"""What --prompts calls the reference model's training text."""
MOST_TOPICS = 24
"""More are stored with the heads, but not printed."""


def train_exits_command(
    out: Annotated[Path, typer.Option(help="Folder of the run; heads come into its heads/.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(help="A folder with safetensors, a .gguf file, reference or smollm2.", show_default="the run's"),
    ] = None,
    exits: Annotated[
        str | None, typer.Option(help="Exit layers, shallow to deep, such as 4,8.", show_default="the run's")
    ] = None,
    kind: Annotated[
        str,
        typer.Option(help="block (a transformer layer), adapter (a linear map) or lm_head."),
    ] = "block",
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of teacher text, written by the model itself.")
    ] = 1_000_000,
    passes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How often each token of the text is trained on; more than before with --resume trains on.",
            show_default="3",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="JSONL with prompt and topic on each line, or corpus: excerpts of what the reference model read.",
            show_default="built-in topics",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time in all, such as 2h, 40m or 900s; text takes at most half.", show_default="no limit"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts, text and order.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, with its settings.")] = False,
) -> None:
    """Train heads that read a frozen network out at exit layers, from text that the network writes itself.

    The network's text does not change: a head can only change how often an exit agrees with it. Agreement is measured
    on topics that no head was trained on. Ctrl-C leaves all that was done; --resume goes on to the same heads.

    hispec train exits --model smollm2 --exits 4,8 --tokens 1000000 --out heads-run --budget 2h
    """
    from hispec_sim.models.distil.run import HEADS, check_exits, more_passes, read_settings, run, start, use_threads
    from hispec_sim.models.loading import NO_HEADS, load_model

    console = table_console()
    settings = (
        read_settings(out)
        if resume
        else _settings(model, exits, kind, tokens, passes or PASSES, prompts, budget, threads, seed, out)
    )
    use_threads(settings.threads)
    loaded = load_model(settings.model, dtype="fp32", device=device, exit_heads=NO_HEADS)
    if resume and passes is not None:
        more_passes(out, passes)
    if not resume:
        check_exits(settings, loaded.network)
        start(out, settings, _prompts(prompts, settings.seed))
    tokenizer = loaded.tokenizer

    def encode(text: str) -> list[int]:
        return tokenizer.encode_prompt(text, chat=tokenizer.chat_template is not None)

    with _shown(console) as show:
        found = run(out, loaded.network, encode, tokenizer.stop_ids, show=show)
    if found is None:
        console.print(
            f"stopped: continue with hispec train exits --resume --out {out}", soft_wrap=True, highlight=False
        )
        raise typer.Exit(INTERRUPTED)
    _print_agreement(console, found)
    console.print(f"written to {out / HEADS}", soft_wrap=True, highlight=False)


def _settings(
    model: str | None,
    exits: str | None,
    kind: str,
    tokens: int,
    passes: int,
    prompts: str | None,
    budget: str | None,
    threads: int,
    seed: int,
    out: Path,
) -> Settings:
    """The settings of a new run, checked, with the command that gives them again."""
    from hispec_sim.models.distil.run import Settings
    from hispec_sim.models.exits import Kind

    if model is None or exits is None:
        raise InputError("a new run needs --model and --exits; to go on with one, say --resume")
    if kind not in list(Kind):
        raise InputError(f"--kind must be one of {', '.join(Kind)}, got {kind!r}")
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", exits.replace(" ", "")):
        raise InputError(f"--exits must be layers such as 4,8, got {exits!r}")
    budget_s = None if budget is None else seconds_of("--budget", budget)
    layers = tuple(int(layer) for layer in exits.replace(" ", "").split(","))
    options = {"model": model, "exits": exits, "kind": kind, "tokens": tokens, "passes": passes,
               "prompts": prompts, "budget": budget, "threads": threads, "seed": seed, "out": out}  # fmt: skip
    given = [f"--{key} {shlex.quote(str(value))}" for key, value in options.items() if value is not None]
    command = " ".join(["hispec train exits", *given])
    return Settings(model, layers, Kind(kind), tokens, seed, threads, budget_s, passes, command)


def _prompts(source: str | None, seed: int) -> list[Prompt]:
    """The prompts of a new run; none where those about built-in topics are to be used."""
    from hispec_sim.models.distil.prompts import excerpts, read_prompts
    from hispec_sim.models.train.corpus import package_corpus

    if source is None:
        return []
    return excerpts(package_corpus(), seed) if source == CORPUS else read_prompts(Path(source))


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[Stand], None]]:
    """A bar with rate and time left on a terminal, and about ten lines for each phase anywhere."""
    columns = (TextColumn("{task.fields[what]}"), BarColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=1, what="")
    said: set[tuple[str, int]] = set()

    def show(stand: Stand) -> None:
        unit = "tokens" if stand.what == "text" else "steps"
        text = f"{stand.done}/{stand.total} {unit}, {stand.tokens_per_s:.0f} tokens/s, {duration(stand.left_s)} left"
        bar.update(task, completed=stand.done, total=stand.total, what=stand.what, description=text)
        tenth = (stand.what, 10 * stand.done // stand.total)
        if tenth not in said:
            said.add(tenth)
            console.print(
                f"{stand.what}: {text}{'; ' if stand.note else ''}{stand.note}", soft_wrap=True, highlight=False
            )

    with bar:
        yield show


def _print_agreement(console: Console, found: Sequence[Agreement]) -> None:
    table = Table(title="Agreement with the whole network on held-out topics")
    for name in ("exit", "without head", "with head", "greedy text", "sampled text"):
        table.add_column(name, justify="right")
    for each in found:
        shares = [f"{each.untrained:.3f}", f"{each.share:.3f} ± {each.error:.3f}"]
        parts = ["-" if part is None else f"{part:.3f}" for part in (each.greedy, each.sampled)]
        table.add_row(str(each.exit_layer), *shares, *parts)
    console.print(table)
    if len(found[0].by_topic) > MOST_TOPICS:
        return
    topics = Table(title="By held-out topic")
    topics.add_column("topic", max_width=60)
    for each in found:
        topics.add_column(f"exit {each.exit_layer}", justify="right")
    for topic in found[0].by_topic:
        topics.add_row(topic, *(f"{each.by_topic[topic]:.3f}" for each in found))
    console.print(topics)
