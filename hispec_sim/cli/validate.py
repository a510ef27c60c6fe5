"""`hispec validate`: decode for real, simulate the same, and say how far apart the two are."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import hispec_sim
from hispec_sim.acceptance.joined import join_traces
from hispec_sim.acceptance.trace_file import load_trace
from hispec_sim.cli.durations import seconds_of
from hispec_sim.cli.progress import progress
from hispec_sim.cli.turns import turns
from hispec_sim.errors import InputError
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.latency.profile_file import read_profile

if TYPE_CHECKING:  # torch is no part of the core install
    from hispec_sim.models.llama import Llama

INTERRUPTED = 130
CLOCKS = {"wall": time.perf_counter, "processor": time.thread_time}


def validate_command(
    model: Annotated[str, typer.Option(help="Target: a folder with safetensors, a .gguf file, reference or smollm2.")],
    profile: Annotated[
        Path,
        typer.Option(help="Latency profile of this model on this machine; with --turns it may come while decoding."),
    ],
    trace: Annotated[
        list[Path],
        typer.Option(help="Agreement trace of this model, recorded on other prompts; again for each set of prompts."),
    ],
    design: Annotated[Path, typer.Option(help="Configurations, such as scenarios/validation/reference.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and the results.")],
    prompts: Annotated[
        str,
        typer.Option(
            help="humaneval, prose, stdlib, reference, or a JSONL file (a prompt, name and topic a line); several "
            "with commas are decoded in turn."
        ),
    ] = "reference",
    chat: Annotated[
        bool, typer.Option("--chat", help="Put prompts into the model's chat template, as the traces did.")
    ] = False,
    split: Annotated[str, typer.Option(help="tuning, held-out or all.")] = "held-out",
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts each, in place of the design's number.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each configuration is decoded.")] = 3,
    repetitions: Annotated[
        int, typer.Option(min=2, help="Resamples of the trace that tell how sure a prediction is.")
    ] = 40,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads; those of the profile.")] = 1,
    exit_heads: Annotated[
        str | None,
        typer.Option(
            help="Folder of trained heads for the exits, or lm_heads (reference); none: the LM head reads all.",
            show_default="the model's own, if any",
        ),
    ] = None,
    clock: Annotated[
        str, typer.Option(help="wall; or processor: one thread's own time, for a machine that others use.")
    ] = "wall",
    quiet: Annotated[
        float | None,
        typer.Option(
            help="Decode in moments when steady work takes at most so many times its best, such as 1.15: a run that "
            "others disturbed is run again."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulations.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the runs in --out: decode what is missing, then compare.")
    ] = False,
    no_decode: Annotated[
        bool,
        typer.Option(
            "--no-decode",
            help="Compare the finished runs in --out and decode nothing: after measuring another profile or recording "
            "another trace, or to look at a campaign that is not done.",
        ),
    ] = False,
    turns_file: Annotated[
        Path | None,
        typer.Option("--turns", help="Decode in turns with the commands that are given the same file."),
    ] = None,
    turn: Annotated[str, typer.Option(help="How long a turn of this command lasts.")] = "40s",
    other_device: Annotated[
        bool, typer.Option("--other-device", help="Compare even with a profile of another machine or model.")
    ] = False,
) -> None:
    """Decode a design's configurations for real, simulate them, and report the errors and where they come from.

    Configurations are decoded in turn and again in another order, so that a machine that is slow for a while is slow
    for all. Ctrl-C keeps every finished run and reports on them; --resume goes on, --no-decode only compares again.
    Writes results.csv, forwards.csv (each kind of forward, real and priced), overall.json and report.html. Time on a
    quiet machine, with the profile's --threads; where others share it, decode in quiet moments (--quiet 1.15) and
    measure the profile meanwhile, in turns (--turns FILE here and for hispec profile run): it is read when decoding
    is done.

    hispec validate --model reference --profile cpu.csv --trace tuning.trace --design scenarios/validation/quick.yaml
    --out results/validation
    """
    from hispec_sim.execute.generate import use_threads
    from hispec_sim.execute.prompt_caches import PromptCaches
    from hispec_sim.models.layouts import lay_out_for_cpu
    from hispec_sim.models.loading import load_model
    from hispec_sim.profiler.latency import moments_of
    from hispec_sim.profiler.machine import conditions
    from hispec_sim.profiler.prompts import Split, sha256
    from hispec_sim.report.validation_page import validation_page
    from hispec_sim.validate.campaign import MACHINE, Campaign, compare_all, write_text
    from hispec_sim.validate.compare import overall
    from hispec_sim.validate.decoding import observe
    from hispec_sim.validate.design import load_design
    from hispec_sim.validate.prediction import Predictor
    from hispec_sim.validate.prompt_sets import (
        campaign_prompts,
        check_alike,
        check_apart,
        check_paired,
        paired_sequences,
        prompt_sets,
    )
    from hispec_sim.validate.shared_caches import SharedCaches
    from hispec_sim.validate.strata import strata_of

    try:
        half = Split(split)
    except ValueError:
        raise InputError(f"--split {split!r} must be one of {', '.join(Split)}") from None
    if clock not in CLOCKS:
        raise InputError(f"--clock {clock!r} must be one of {', '.join(CLOCKS)}")
    if clock == "processor" and threads > 1:
        raise InputError(f"--clock processor times one thread, --threads is {threads}; use --clock wall")
    plan = load_design(design, prompts=limit)
    configurations = plan.expand()
    traces = [load_trace(path) for path in trace]
    recorded = join_traces(traces, {}) if len(traces) > 1 else traces[0]
    sets = prompt_sets(prompts, half, plan.prompts, len(traces))
    every = [text for texts in sets for text in texts]
    for path, each in zip(trace, traces, strict=True):
        check_alike(each, chat, path)
        if not plan.paired:
            check_apart(each, every, path)
    if plan.paired:
        check_paired(recorded, every)
    console = Console(highlight=False)
    with turns(turns_file, seconds_of("--turn", turn)) as rest:
        use_threads(threads)
        target = load_model(model, exit_heads=exit_heads)
        network = target.network
        target.tokenizer.encode_prompt("", chat=chat)  # refused before a folder is made, if there is no template
        for configuration in configurations:
            configuration.cascade(network.config.shape.n_layers)
        lay_out_for_cpu(network)
        moments = moments_of(network, clock, None if no_decode else quiet)
        decoding: dict[str, Any] = {
            "model": model, "design": _named(design), "prompts": prompts, "prompts_each": plan.prompts, "chat": chat,
            "split": split, "threads": threads, "clock": clock, "quiet": quiet, "exit_heads": exit_heads,
            "version": hispec_sim.__version__, MACHINE: conditions(target),
        }  # fmt: skip
        measured_meanwhile = turns_file is not None and not profile.exists() and not no_decode
        if not measured_meanwhile:
            _cost_of(profile, network, None if no_decode or other_device else decoding[MACHINE])
        campaign = Campaign(out, decoding, resume=resume, decode=not no_decode)
        longest = max(configuration.max_new_tokens for configuration in configurations)
        writing = partial(progress, "writing the target's text", plan.prompts, "prompts")
        chosen = campaign_prompts(campaign, sets, plan.prompts // len(sets), longest, target, writing, chat=chat)
        hashes = sha256([text.text for text in chosen])
        ids = [target.tokenizer.encode_prompt(text.text, chat=chat) for text in chosen]
        paired = paired_sequences(recorded, hashes, chosen) if plan.paired else None
        sizes, strata = plan.block_sizes(), strata_of([text.group for text in chosen], len(sets), traces)

        def predictor() -> Predictor:
            """With the profile as it is now, for another command may be measuring it."""
            cost = _cost_of(profile, network, None if other_device else campaign.machine)
            lengths = list(map(len, ids))
            return Predictor(recorded, cost, lengths, block_sizes=sizes, strata=strata, paired=paired, seed=seed)

        if not measured_meanwhile:
            predictor().predict(configurations[0], 1)  # what trace or profile lacks shows before hours of decoding
        interrupted = False
        if not no_decode:
            parts = {each: list(chain.from_iterable(each.parts(sizes))) for each in configurations}
            exits = sorted({exit_layer for each in configurations for exit_layer in each.exits})
            prompt_caches = PromptCaches(network, exits, keep=max(sizes))  # a block is decoded before the next
            shared = SharedCaches(network, exits, max(map(len, ids)) + longest)
            try:
                runs = campaign.missing(configurations, repeats, sizes)
                n_runs = repeats * sum(map(len, parts.values()))
                with progress("decoding", n_runs, "runs", done=n_runs - len(runs)) as bar:
                    campaign.decode(
                        runs,
                        lambda c, r, part: moments.measure(
                            lambda: observe(
                                c, r, network, [ids[k] for k in parts[c][part]], CLOCKS[clock], prompt_caches, shared
                            ),
                            lambda: bar.note("waiting for a quiet moment"),
                        ),
                        bar,
                        lambda: rest(moments.lost_s),
                    )
            except KeyboardInterrupt:
                interrupted = True
    if measured_meanwhile and not profile.exists():
        done = "interrupted: go on with --resume" if interrupted else "decoded: compare with --no-decode"
        console.print(f"{done} once {profile} is written", style="yellow")
        raise typer.Exit(INTERRUPTED if interrupted else 0)
    simulated = predictor()
    with progress("simulating", len(configurations), "configurations") as tick:
        compared = compare_all(campaign, configurations, simulated, repetitions, tick)
    rows, forwards = compared.rows, compared.forwards
    if not len(rows):
        raise typer.Exit(INTERRUPTED)
    result, cost = overall(rows, compared.prompts), simulated.cost
    settings = {key: value for key, value in decoding.items() if key != MACHINE} | {
        "profile": _named(profile), "trace": ", ".join(map(_named, trace)), "seed": seed,
        "device": cost.profile.device, "profile_date": cost.profile.provenance.date,
        "beyond the profile": "; ".join(cost.extrapolated) or "nothing",
    }  # fmt: skip
    write_text(out / "results.csv", rows.to_csv(index=False, float_format="%.6g"))
    write_text(out / "forwards.csv", forwards.to_csv(index=False, float_format="%.6g"))
    write_text(out / "overall.json", json.dumps(result, indent=1) + "\n")
    write_text(out / "report.html", validation_page(rows, forwards, result, settings))
    _show(console, result)
    for note in cost.extrapolated:
        console.print(f"beyond the profile: {note}", style="yellow")
    if not compared.common_blocks:
        console.print(
            "no block of prompts is finished in all configurations: each is compared on the prompts that it has, "
            "so do not rank them",
            style="yellow",
        )
    console.print(f"written to {out}: results.csv, forwards.csv, overall.json, report.html", soft_wrap=True)
    if interrupted:
        console.print("interrupted: go on with --resume", style="yellow")
        raise typer.Exit(INTERRUPTED)


def _cost_of(path: Path, network: Llama, here: Mapping[str, str] | None) -> NetworkCost:
    """What the profile says of the network. Raises InputError if it is of one of another shape or, where `here` are the
    conditions of the runs, was measured under other ones."""
    from hispec_sim.profiler.machine import check_same_machine

    cost, shape = NetworkCost(read_profile(path), tensor_parallel=1, allow_extrapolation=True), network.config.shape
    profiled = cost.profile.network
    if (profiled.n_layers, profiled.hidden_size) != (shape.n_layers, shape.hidden_size):
        raise InputError(f"--profile {path} is of {profiled.name}, which does not have the shape of {shape.name}")
    if here is not None:
        check_same_machine(cost.profile, here)
    return cost


def _named(path: Path) -> str:
    return f"{path} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()})"


def _show(console: Console, result: dict[str, Any]) -> None:
    from hispec_sim.report import validation_page as page

    for title, head, cells in (
        ("Errors: simulated / real - 1", page.FIDELITY_HEAD, page.fidelity_table(result)),
        ("tokens_per_s by batch", page.BATCH_HEAD, page.batch_table(result)),
        ("Error budget of tokens_per_s: all but one part real", page.BUDGET_HEAD, page.budget_table(result)),
        ("Goals", page.GOALS_HEAD, page.goals_table(result)),
    ):
        table = Table(title=title, title_justify="left")
        for name in head:
            table.add_column(name, justify="left" if name == head[0] else "right")
        for row in cells:
            table.add_row(*row)
        console.print(table)
    console.print(f"largest part of the error: {result['largest_term']}")
