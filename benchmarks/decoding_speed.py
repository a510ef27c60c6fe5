"""How fast the executor decodes, against what a user would run instead: transformers' generate on the same weights.

    python benchmarks/decoding_speed.py [--model FOLDER | smollm2] [--exits 5,10] [--threads 1 2] [--out speed.json]
        [--prompt TEXT [--chat]] [--shortlist 4096 [--shortlist-text FILE]]

Without --model a network of the reference recipe's shape with random weights is decoded: its text and what it accepts
mean nothing, but the time of its forwards does. Exits are read out through the heads that come with the model, and
accept what they would only on text like a user's: give a prompt. With a shortlist, early exit runs with it too. Every
contender runs in a process of its own and decodes the same prompt greedily, one after the other within each round;
ratios are medians over rounds. llama.cpp (the package xllamacpp, if installed) runs where the model is a GGUF file, for
scale only: it computes in 4 bits, and the package's builds leave out what newer processors can do.

The machine must be quiet: two threads wait for each other, so anything else that runs stalls them out of all
proportion. The last line says whether anything did.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from contender import Process
from measuring import Quietness, machine, machine_line, spread, watched, write_json

from hispec_sim.errors import InputError
from hispec_sim.models.files.safetensors_folder import save_folder
from hispec_sim.models.llama import Llama
from hispec_sim.models.loading import load_model
from hispec_sim.models.ranking import count_ranking, write_ranking
from hispec_sim.models.train.recipe import Recipe
from hispec_sim.networks import NetworkSpec

PLAIN = "transformers generate"


def random_network() -> Llama:
    """The reference recipe's shape: deep and narrow, where dispatch dominates, as on a GPU at small batch."""
    torch.manual_seed(1)
    return Llama(Recipe(steps=1).config()).eval()


def contenders(
    folder: Path,
    gguf: Path | None,
    heads: Path | None,
    shape: NetworkSpec,
    exits: tuple[int, int],
    periods: tuple[int, int],
    shortlist: int | None,
) -> dict[str, list[str]]:
    """What to start for each contender, by its name."""
    (early, middle), (draft_length, verify_period) = exits, periods
    ours, theirs = ["hispec", "--model", str(folder)], ["transformers", "--model", str(folder)]
    if heads is not None:
        ours += ["--heads", str(heads)]
    found = {
        PLAIN: theirs,
        "hispec autoregressive": ours,
        f"transformers early exit {early}": [*theirs, "--exits", str(early)],
        f"hispec early exit {early}": [*ours, "--exits", str(early), "--periods", str(draft_length)],
        f"hispec {early}>{middle}": [
            *ours, "--exits", f"{early},{middle}", "--periods", f"{min(2, draft_length)},{verify_period}",
        ],
    }  # fmt: skip
    if shortlist is not None:
        found[f"hispec early exit {early}, {shortlist}"] = [
            *found[f"hispec early exit {early}"], "--shortlist", str(shortlist),
        ]  # fmt: skip
    if gguf is not None:
        if importlib.util.find_spec("xllamacpp"):
            name = f"llama.cpp on {gguf.stem.rsplit('.', 1)[-1]}"
            found[name] = ["llama.cpp", "--model", str(gguf), "--vocab-size", str(shape.vocab_size)]
        else:
            print("without llama.cpp, which is for scale only: pip install xllamacpp")
    return found


def measure(
    starts: dict[str, list[str]], shared: list[str], threads: int, rounds: int, quietness: Quietness
) -> dict[str, list[dict[str, Any]]]:
    """Answers of every contender, round by round, after one round of warm-up."""
    processes = {name: Process(*start, *shared, "--threads", str(threads)) for name, start in starts.items()}
    try:
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in processes}
        for round_ in watched(range(rounds + 1), f"{threads} thread(s)"):
            quietness.check()
            for name, process in processes.items():
                answer = process.decode()
                if round_:
                    answers[name].append(answer)
        return answers
    finally:
        for process in processes.values():
            process.close()


def summarise(answers: dict[str, list[dict[str, Any]]], tokens: int) -> dict[str, dict[str, Any]]:
    """Tokens per second, ratio to transformers' generate round by round, and whether the text is the same."""
    base = answers[PLAIN]
    found = {}
    for name, runs in answers.items():
        found[name] = {
            "tokens_per_s": [tokens / run["seconds"] for run in runs],
            "ratio": [theirs["seconds"] / ours["seconds"] for theirs, ours in zip(base, runs, strict=True)],
            "outside_forwards": [run["outside_forwards"] for run in runs if "outside_forwards" in run],
            "thread_ms_per_token": [1000 * run["thread_seconds"] / tokens for run in runs if "thread_seconds" in run],
            "matched_per_drafted": runs[-1].get("matched_per_drafted"),
            "tokens_per_target_pass": runs[-1].get("tokens_per_target_pass"),
            "same_text": runs[-1]["text"] == base[-1]["text"] if runs[-1]["text"] else None,
        }
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print tokens per second of each contender and its ratio to transformers' generate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="as for hispec decode; default: random weights")
    parser.add_argument("--exits", help="exit layers of early exit and HiSpec (default: an eighth and a quarter)")
    parser.add_argument("--periods", default="4,8", help="draft length of early exit, and Ni (default %(default)s)")
    parser.add_argument("--prompt", help="with --model: a text to go on from (default: random tokens)")
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument("--shortlist", type=int, help="early exit also with so many most frequent tokens only")
    parser.add_argument(
        "--shortlist-text", type=Path, help="a text to count tokens in (default: the model's own count)"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=128, help="new tokens per run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default %(default)s)")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    arguments = parser.parse_args(argv)
    loaded = None if arguments.model is None else load_model(arguments.model)
    network = random_network() if loaded is None else loaded.network
    gguf = loaded.source if loaded is not None and loaded.source.suffix == ".gguf" else None
    shape, facts, quietness = network.config.shape, machine(), Quietness()
    try:
        early, middle = map(int, (arguments.exits or f"{max(1, shape.n_layers // 8)},{shape.n_layers // 4}").split(","))
        draft_length, verify_period = map(int, arguments.periods.split(","))
    except ValueError:
        raise InputError("--exits and --periods take two numbers each, such as 5,10") from None
    shared = ["--tokens", str(arguments.tokens)]
    if arguments.prompt is not None:
        if loaded is None:
            raise InputError("--prompt needs a tokenizer: give --model too")
        tokenizer, text = loaded.tokenizer, arguments.prompt
        ids = tokenizer.encode_prompt(text, chat=arguments.chat)
        shared += ["--prompt", ",".join(map(str, ids))]
    if arguments.shortlist_text is not None and loaded is not None:
        counted = loaded.tokenizer.encode(arguments.shortlist_text.read_text(encoding="utf-8"), special=False)
        network.token_ranking = count_ranking(counted, shape.vocab_size, arguments.shortlist_text.name)
    print(f"{machine_line(facts)}\n{shape.name}: {shape.n_layers} layers of {shape.hidden_size}, fp32")
    results: dict[str, Any] = {"machine": facts, "network": shape, "tokens": arguments.tokens}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_folder(network, folder)
        if network.token_ranking is not None:
            write_ranking(network.token_ranking, folder)
        starts = contenders(
            folder, gguf, loaded.exit_heads if loaded else None, shape, (early, middle),
            (draft_length, verify_period), arguments.shortlist,
        )  # fmt: skip
        del network, loaded
        for threads in arguments.threads:
            found = summarise(measure(starts, shared, threads, arguments.rounds, quietness), arguments.tokens)
            results[f"{threads} threads"] = found
            print(f"\n{threads} thread(s), {arguments.rounds} rounds of {arguments.tokens} new tokens")
            for name, row in found.items():
                outside, drafted = row["outside_forwards"], row["matched_per_drafted"]
                print(
                    f"  {name:28} {spread(row['tokens_per_s']):28} tokens/s  {spread(row['ratio'], 2):22} x"
                    + (f"  {statistics.median(outside):.1%} outside forwards" if outside else "")
                    + (f"  {row['tokens_per_target_pass']:.2f} per target pass" if outside else "")
                    + (f"  {statistics.median(row['thread_ms_per_token']):.2f} thread ms/token" if outside else "")
                    + (f"  {drafted:.2f} matched per drafted" if drafted is not None else "")
                    + ("  ANOTHER TEXT" if row["same_text"] is False else "")
                )
    results["quietness"] = quietness.report()
    print(quietness)
    if arguments.out is not None:
        write_json(arguments.out, results)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
