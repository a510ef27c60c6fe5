"""`hispec trace record`: a network writes, and all its exits read what it wrote."""

from __future__ import annotations

import datetime
import math
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from hispec_sim.cli.durations import duration
from hispec_sim.errors import InputError

if TYPE_CHECKING:
    from hispec_sim.acceptance.trace import Exit, Prompt
    from hispec_sim.models.llama import Llama
    from hispec_sim.models.loading import LoadedModel
    from hispec_sim.profiler.record import Stand

INTERRUPTED = 130
WEIGHTS = "weights_sha256"


def record_command(
    out: Annotated[Path, typer.Option(help="The trace to write.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(help="Target: a folder with safetensors, a .gguf file, reference or smollm2.", show_default=False),
    ] = None,
    draft_model: Annotated[
        list[str] | None,
        typer.Option(help="A draft network with the same vocabulary; may be given again.", show_default=False),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            help="humaneval, prose, stdlib, reference, or a JSONL file: a prompt, name and topic on each line."
        ),
    ] = "prose",
    split: Annotated[str, typer.Option(help="tuning, held-out or all: halves that share no topic or task.")] = "tuning",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many prompts.", show_default="all")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts into the model's chat template.")] = False,
    skip_long: Annotated[
        bool,
        typer.Option("--skip-long", help="Leave out prompts that do not fit the model's positions, and say how many."),
    ] = False,
    exits: Annotated[
        str,
        typer.Option(help="Exit layers of the target to read, such as 4,8 or all. Sampling: size grows as squares."),
    ] = "all",
    draft_exits: Annotated[str, typer.Option(help="Exit layers of draft networks besides the last.")] = "",
    exit_heads: Annotated[
        str | None,
        typer.Option(
            help="Folder of trained heads for the exits, or lm_heads (reference); none: the LM head reads all.",
            show_default="the model's own, if any",
        ),
    ] = None,
    middles: Annotated[
        str, typer.Option(help="Target's exits whose wrong tokens are followed: needed by cascades of three levels.")
    ] = "all",
    places: Annotated[int, typer.Option(min=0, help="Wrong tokens followed per prompt and middle.")] = 4,
    off_path_tokens: Annotated[int, typer.Option(min=1, help="Tokens behind each.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens per prompt.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the smallest set with this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling and of places.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Prompts side by side; Ctrl-C drops those under way.")] = 8,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the recording of --out, as it was begun.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a trace that exists.")] = False,
) -> None:
    """Record which exits predict what the target predicts, on text that it writes itself.

    Ctrl-C keeps all finished prompts; --resume goes on to the same file. Tune cascades on one half of the prompts and
    judge them on the other.

    hispec trace record --model smollm2 --prompts humaneval --split tuning --exits 10,20,25 --out smollm2.trace
    """
    from hispec_sim.execute.generate import use_threads
    from hispec_sim.profiler.record import read_settings, start

    console = Console(stderr=True)
    if not resume and model is None:
        raise InputError("a new recording needs --model; to go on with one, say --resume")
    settings: dict[str, Any] = {
        "model": model, "draft_models": draft_model or [], "prompts": prompts, "split": split, "limit": limit,
        "chat": chat, "skip_long": skip_long, "exits": exits, "draft_exits": draft_exits, "exit_heads": exit_heads,
        "middles": middles, "places": places, "off_path_tokens": off_path_tokens, "max_new_tokens": max_new_tokens,
        "temperature": temperature, "top_p": top_p, "seed": seed, "batch": batch, "dtype": dtype, "device": device,
        "threads": threads, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    settings["command"] = _command(settings, out)
    if resume:
        settings = read_settings(out, [*settings, WEIGHTS])
    use_threads(settings["threads"])
    opened = _Opened(settings)
    if not resume:
        settings[WEIGHTS] = opened.hashes
        start(out, settings, force=force)
    elif settings[WEIGHTS] != opened.hashes:
        raise InputError(f"the model {settings['model']} has changed since the recording began; record anew")
    if opened.skipped:
        console.print(f"{opened.skipped} prompts left out: they do not fit the model's positions")
    with _shown(console) as show:
        try:
            opened.record(out, show)
        except KeyboardInterrupt:
            console.print(f"stopped: go on with hispec trace record --resume --out {shlex.quote(str(out))}")
            raise typer.Exit(INTERRUPTED) from None
    typer.echo(f"written to {out} ({out.stat().st_size / 1e6:.2f} MB); look at it with hispec trace show {out}")


class _Opened:
    """Models and prompts of a recording, loaded and checked."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from hispec_sim.models.loading import check_vocabularies, load_model
        from hispec_sim.profiler.agreement import Plan
        from hispec_sim.profiler.record import check_prompts, fitting, weights_hash

        self.settings, self.skipped = settings, 0
        kind = {"dtype": settings["dtype"], "device": settings["device"]}
        target = load_model(settings["model"], exit_heads=settings["exit_heads"], **kind)
        drafts = [load_model(name, **kind) for name in settings["draft_models"]]
        for draft in drafts:
            check_vocabularies(target, draft)
        models = [*drafts, target]
        self.networks: dict[str, Llama] = {each.network.config.shape.name: each.network for each in models}
        if len(self.networks) < len(models):
            raise InputError(f"two of the models {', '.join(each.name for each in models)} have one name; rename one")
        self.hashes = {each.network.config.shape.name: weights_hash(each.source) for each in models}
        self.hashes |= {
            f"exit heads of {each.network.config.shape.name}": weights_hash(each.exit_heads)
            for each in models
            if each.exit_heads is not None
        }
        found = [exit_ for each in drafts for exit_ in _exits(each.network, settings["draft_exits"], "--draft-exits")]
        mine = _exits(target.network, settings["exits"], "--exits")
        middles = _exits(target.network, settings["middles"], "--middles")[:-1]
        if settings["middles"] != "all" and (unread := [e.exit_layer for e in middles if e not in mine]):
            raise InputError(f"--middles {unread[0]}: only exits that are read can be followed; add it to --exits too")
        middles = [e for e in middles if e in mine]
        self.plan = Plan(
            exits=(*found, *mine),
            middles=tuple(middles),
            max_new_tokens=settings["max_new_tokens"],
            places=settings["places"],
            tokens=settings["off_path_tokens"],
            temperature=settings["temperature"],
            top_p=settings["top_p"],
            seed=settings["seed"],
        )
        self.stop_ids = target.tokenizer.stop_ids
        self.prompts, self.about = _prompts(settings, target)
        if settings["skip_long"]:
            fit = fitting(self.networks, self.plan, self.prompts)
            self.skipped = len(self.prompts) - len(fit)
            self.prompts, self.about = [self.prompts[i] for i in fit], [self.about[i] for i in fit]
        check_prompts(self.networks, self.plan, self.prompts, self.about)

    def record(self, out: Path, show: Callable[[Stand], None]) -> None:
        """Record, to the end or until Ctrl-C."""
        from hispec_sim.profiler.record import provenance_of, record

        provenance = {**self.settings, **provenance_of(self.plan, self.networks)}
        record(
            out,
            self.networks,
            self.plan,
            self.prompts,
            self.about,
            provenance,
            batch=self.settings["batch"],
            stop_ids=self.stop_ids,
            show=show,
        )


def _prompts(settings: dict[str, Any], target: LoadedModel) -> tuple[list[list[int]], list[Prompt]]:
    from hispec_sim.acceptance.trace import Prompt
    from hispec_sim.profiler.prompts import Split, prompt_set, sha256

    if settings["split"] not in list(Split):
        raise InputError(f"--split must be one of {', '.join(Split)}, got {settings['split']!r}")
    texts = prompt_set(settings["prompts"], Split(settings["split"]), settings["limit"])
    ids = [target.tokenizer.encode_prompt(text.text, chat=settings["chat"]) for text in texts]
    hashes = sha256([text.text for text in texts])
    return ids, [Prompt(t.name, t.group, h, len(i)) for t, h, i in zip(texts, hashes, ids, strict=True)]


def _exits(network: Llama, text: str, option: str) -> list[Exit]:
    """The exits named by an option, and the network's last layer."""
    from hispec_sim.acceptance.trace import Exit

    shape = network.config.shape
    if text == "all":
        layers = set(range(1, shape.n_layers))
    elif re.fullmatch(r"(\d{1,6}(,\d{1,6})*)?", text.replace(" ", "")):
        layers = {int(layer) for layer in text.replace(" ", "").split(",") if layer}
    else:
        raise InputError(f"{option} must be layers such as 4,8, or all, got {text!r}")
    outside = [layer for layer in layers if not 1 <= layer <= shape.n_layers]
    if outside:
        raise InputError(f"{option}: {shape.name} has layers 1 to {shape.n_layers}, not {outside[0]}")
    return [Exit(shape.name, layer) for layer in sorted(layers | {shape.n_layers})]


def _command(settings: dict[str, Any], out: Path) -> str:
    """The command that records the same again."""
    words = ["hispec", "trace", "record"]
    for key, value in settings.items():
        if key == "date" or value is None or value == "" or value is False:
            continue
        option = "--draft-model" if key == "draft_models" else "--" + key.replace("_", "-")
        for each in value if isinstance(value, list) else [value]:
            words += [option] if each is True else [option, str(each)]
    return shlex.join([*words, "--out", str(out)])


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[Stand], None]]:
    """A bar with rate and time left on a terminal, and a line for each batch elsewhere."""
    bar = Progress(
        TextColumn("recording"), BarColumn(), TextColumn("{task.description}"), console=console, transient=True
    )
    task = bar.add_task("", total=1)
    said: set[int] = set()

    def show(stand: Stand) -> None:
        left = "" if math.isnan(stand.left_s) else f", {duration(stand.left_s)} left"
        text = f"{stand.done}/{stand.total} prompts, {stand.tokens} tokens at {stand.tokens_per_s:.0f}/s{left}"
        bar.update(task, completed=stand.done, total=stand.total, description=text)
        if not console.is_terminal and stand.done not in said:
            said.add(stand.done)
            console.print(f"recording: {text}", soft_wrap=True, highlight=False)

    bar.disable = not console.is_terminal
    with bar:
        yield show
