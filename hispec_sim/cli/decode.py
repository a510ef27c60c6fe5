"""`hispec decode`: real networks decode a prompt with a cascade, and say which level each token came from."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.segment import Segment, Segments

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.errors import InputError

if TYPE_CHECKING:
    from hispec_sim.execute.choosing import Token
    from hispec_sim.execute.generate import Generation
    from hispec_sim.models.loading import LoadedModel

LEVEL_STYLES = ("cyan", "yellow", "magenta", "green")
TARGET_STYLE = "default"


def decode_command(
    model: Annotated[str, typer.Option(help="Target: a folder with safetensors, a .gguf file, reference or smollm2.")],
    prompt: Annotated[str | None, typer.Option(help="The prompt.", show_default=False)] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="A file with the prompt.", show_default=False)] = None,
    draft_model: Annotated[
        str | None,
        typer.Option(help="A separate draft network with the same vocabulary, as level 0.", show_default=False),
    ] = None,
    exits: Annotated[
        str, typer.Option(help="Exit layers of the target that act as levels, shallow to deep, such as 4,8.")
    ] = "",
    draft_length: Annotated[int, typer.Option(min=1, help="Tokens drafted before level 1 verifies (Nd).")] = 4,
    verify_period: Annotated[
        list[int] | None,
        typer.Option(help="Tokens gathered for level 2 (Ni), and again for each level above.", show_default="4"),
    ] = None,
    shortlist: Annotated[
        int | None,
        typer.Option(min=1, help="Level 0 drafts only from so many most frequent tokens.", show_default="all tokens"),
    ] = None,
    shortlist_text: Annotated[
        Path | None,
        typer.Option(help="A text to count tokens in, for --shortlist.", show_default="the model's own count, if any"),
    ] = None,
    bonus: Annotated[Bonus, typer.Option(help="Whether verifiers add a token always, or on a mismatch only.")] = (
        Bonus.ON_MISMATCH
    ),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 decodes greedily.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the smallest set with this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    compare: Annotated[int, typer.Option(min=0, help="Rounds against autoregressive decoding, interleaved.")] = 0,
    exit_heads: Annotated[
        str | None,
        typer.Option(
            help="Folder of trained heads for the exits, or lm_heads (reference); none: the LM head reads all.",
            show_default="the model's own, if any",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs/--no-cuda-graphs", help="On CUDA, replay forwards that come back as graphs.")
    ] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.", show_default="torch's")] = None,
) -> None:
    """Decode a prompt for real, losslessly, with any cascade.

    Without --exits and --draft-model the target decodes autoregressively; with one of them it is speculative
    decoding; --exits 4,8 is HiSpec. Colours tell which level chose a token; the target's own are plain.

    hispec decode --model smollm2 --exits 4,8 --draft-length 2 --verify-period 4 --prompt "def fibonacci(n):"
    """
    from hispec_sim.execute.decoder import Decoder
    from hispec_sim.execute.generate import Settings, generate_with, lossless_note, use_threads
    from hispec_sim.models.layouts import lay_out_for_cpu
    from hispec_sim.models.loading import check_vocabularies, load_model
    from hispec_sim.models.ranking import count_ranking

    if threads is not None:
        use_threads(threads)
    console = Console(highlight=False)
    text = _prompt(prompt, prompt_file)
    target = load_model(model, dtype=dtype, device=device, exit_heads=exit_heads, cuda_graphs=cuda_graphs)
    networks = {"target": target.network}
    if draft_model is not None:
        draft = load_model(draft_model, dtype=dtype, device=device, cuda_graphs=cuda_graphs)
        check_vocabularies(target, draft)
        networks["draft"] = draft.network
    for network in networks.values():
        lay_out_for_cpu(network)
    depths = {name: network.config.shape.n_layers for name, network in networks.items()}
    cascade = build_cascade(depths, exits, draft_length, verify_period or [], bonus, shortlist)
    if shortlist_text is not None:
        if shortlist is None:
            raise InputError("--shortlist-text counts tokens for a shortlist; give its length with --shortlist too")
        network = networks[cascade.levels[0].network]
        counted = target.tokenizer.encode(_text_of("--shortlist-text", shortlist_text), special=False)
        network.token_ranking = count_ranking(counted, network.config.shape.vocab_size, str(shortlist_text))
    if exit_heads is None:
        _check_heads(target, cascade)
    note = lossless_note(networks)
    if note is not None and cascade.target > 0:
        console.print(f"note: {note}", style="yellow")
    tokenizer = target.tokenizer
    ids = tokenizer.encode_prompt(text, chat=chat)
    settings = Settings(max_new_tokens, tokenizer.stop_ids, temperature, top_p, seed)
    stream = tokenizer.stream(behind=ids)

    def write(piece: str, style: str) -> None:
        # A segment goes out as it is; rich expands tabs and strips control characters of any other text.
        console.print(Segments([Segment(piece, console.get_style(style))]), soft_wrap=True)

    def show(_: int, tokens: Sequence[Token]) -> None:
        for token in tokens:
            style = TARGET_STYLE if token.level == cascade.target else LEVEL_STYLES[token.level % len(LEVEL_STYLES)]
            write(stream.push(token.token_id), style)

    write(text, "dim")
    decoders = [
        Decoder(each, networks, slots=1, max_tokens=len(ids) + max_new_tokens)
        for each in (cascade, Cascade((replace(cascade.levels[-1], verify_period=0),)))[: 1 + (compare > 0)]
    ]
    generation = generate_with(decoders[0], ids, settings, show)
    write(stream.finish(), TARGET_STYLE)
    console.print()
    console.print(summary_line(generation, cascade), style="bold", soft_wrap=True)
    if compare:
        ours, plain = decoders
        console.print(
            _comparison(
                lambda which: generate_with(ours if which else plain, ids, settings), compare, temperature == 0
            ),
            soft_wrap=True,
        )


def build_cascade(
    depths: dict[str, int],
    exits: str,
    draft_length: int,
    verify_periods: Sequence[int],
    bonus: Bonus,
    shortlist: int | None = None,
) -> Cascade:
    """The cascade of the command line: a draft network if there is one, the target's exits, the target; the first of
    them with the shortlist.

    Raises InputError for exits that are no numbers, lie beyond the target or do not rise, and for a target alone with
    a shortlist.
    """
    levels: list[tuple[str, int]] = [("draft", depths["draft"])] if "draft" in depths else []
    for exit_ in filter(None, exits.split(",")):
        if not exit_.strip().isdecimal() or not 1 <= int(exit_) < depths["target"]:
            raise InputError(f"--exits {exits}: {exit_!r} must be a layer from 1 to {depths['target'] - 1}")
        levels.append(("target", int(exit_)))
    levels.append(("target", depths["target"]))
    wanted = max(0, len(levels) - 2)
    periods = list(verify_periods) or [4] * wanted
    if len(periods) != wanted:
        raise InputError(
            f"{len(levels)} levels take {wanted} --verify-period (one per level above the first verifier), "
            f"{len(periods)} given"
        )
    all_periods = [0, draft_length, *periods]
    if shortlist is not None and len(levels) == 1:
        raise InputError(
            f"--shortlist {shortlist} is for a level that drafts, and the target alone has none: give --exits or "
            "--draft-model"
        )
    return Cascade(
        tuple(
            Level(*level, verify_period=all_periods[k], shortlist=None if k else shortlist)
            for k, level in enumerate(levels)
        ),
        bonus,
    )


def summary_line(generation: Generation, cascade: Cascade) -> str:
    """The figures of one generation in one line."""
    record = generation.record
    line = (
        f"{len(generation.token_ids)} tokens in {record.wall_ms / 1000:.2f} s: {generation.tokens_per_s:.1f} tokens/s, "
        f"{generation.tokens_per_target_pass(cascade):.2f} tokens per target pass"
    )
    matched = [generation.matched_per_drafted(level) for level in range(1, cascade.target + 1)]
    if matched:
        line += ", matched per drafted " + " / ".join("-" if share is None else f"{share:.2f}" for share in matched)
    return f"{line}, {1 - record.forward_ms / record.wall_ms:.1%} of the time outside forwards"


def _comparison(run: Callable[[bool], Generation], rounds: int, greedy: bool) -> str:
    ratios, same = [], True
    run(False)  # as the cascade has decoded once, for the text shown: a first run is slower
    for _ in range(rounds):
        plain, ours = run(False), run(True)
        ratios.append(ours.tokens_per_s / plain.tokens_per_s)
        same = same and ours.token_ids == plain.token_ids
    line = (
        f"{statistics.median(ratios):.2f}x autoregressive decoding (median of {rounds} interleaved rounds, "
        f"{min(ratios):.2f} to {max(ratios):.2f})"
    )
    return line + (f"; the text is {'the same' if same else 'NOT the same'}" if greedy else "")


def _prompt(prompt: str | None, prompt_file: Path | None) -> str:
    if (prompt is None) == (prompt_file is None):
        raise InputError("give the prompt with either --prompt or --prompt-file")
    if prompt is not None:
        return prompt
    assert prompt_file is not None
    return _text_of("--prompt-file", prompt_file)


def _text_of(option: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {path} cannot be read: {error}") from None


def _check_heads(target: LoadedModel, cascade: Cascade) -> None:
    """Raises InputError for an exit without a head, where others come with one: it would hardly ever agree. Who names
    the heads knows which there are."""
    have = {int(exit_layer) for exit_layer in target.network.exit_heads}
    levels = cascade.levels[:-1]
    lacking = [level.exit_layer for level in levels if level.network == "target" and level.exit_layer not in have]
    if have and lacking:
        raise InputError(
            f"{target.name} has trained heads for exits {', '.join(map(str, sorted(have)))}, none for {lacking[0]}: "
            "choose among these, train one with hispec train exits, or give --exit-heads: with none every exit is read "
            "out through the final norm and the LM head, with a folder those that have no head in it"
        )
