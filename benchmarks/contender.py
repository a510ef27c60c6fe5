"""One way of decoding, in a process of its own: its threads, its memory and its caches are its alone.

    python benchmarks/contender.py KIND --model PATH --threads N --tokens N [--exits 5,10 --periods 4,8]

It loads the model, says so, and then decodes the same prompt greedily whenever it reads a line, answering each with one
line of JSON. `Process` is the other end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

KINDS = ("hispec", "transformers", "llama.cpp", "torch")
"""`torch` imports torch and numpy and decodes nothing: what any contender holds before it has loaded anything."""
PROMPT_TOKENS = 32
MIB = 1 << 20


class Process:
    """A contender that runs beside this process and works only when asked."""

    def __init__(self, kind: str, *arguments: str) -> None:
        """Starts it and waits until its model is loaded. Raises RuntimeError with its last words if it does not."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, kind, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.loaded = self._answer()

    def decode(self) -> dict[str, Any]:
        """Decode once."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            raise RuntimeError(f"{' '.join(self._process.args[2:])} stopped: {errors.strip()[-600:]}")  # type: ignore[index]
        return dict(json.loads(line))


def prompt_of(arguments: argparse.Namespace, vocab_size: int) -> list[int]:
    """The prompt of all contenders: the tokens given, or random ones."""
    if arguments.prompt:
        return [int(token) for token in arguments.prompt.split(",")]
    import numpy as np

    return np.random.default_rng(2).integers(3, vocab_size, PROMPT_TOKENS).tolist()


Decode = Callable[[], dict[str, Any]]


def hispec(arguments: argparse.Namespace) -> tuple[dict[str, Any], Decode]:
    """Our decoder with the cascade of the exits."""
    import torch

    from hispec_sim.cascade import Bonus, Cascade, Level
    from hispec_sim.execute.decoder import Decoder
    from hispec_sim.execute.generate import Settings, generate_with
    from hispec_sim.models.exits import attach
    from hispec_sim.models.files.exit_files import load_heads
    from hispec_sim.models.files.gguf_file import GgufFile, load_gguf
    from hispec_sim.models.files.safetensors_folder import load_folder
    from hispec_sim.models.layouts import lay_out_for_cpu
    from hispec_sim.models.llama import dtype_of
    from hispec_sim.models.ranking import read_ranking

    torch.set_num_threads(arguments.threads)
    path = Path(arguments.model)
    network = load_folder(path) if path.is_dir() else load_gguf(GgufFile(path))
    if arguments.heads:
        attach(network, load_heads(Path(arguments.heads), network))
    if arguments.shortlist:
        network.token_ranking = read_ranking(path, network.config.shape.vocab_size)
    shape, width = network.config.shape, dtype_of(network).itemsize
    weights = width * sum(parameter.numel() for parameter in network.parameters())
    loaded_mib = peak_mib()
    lay_out_for_cpu(network)
    exits, periods = ([int(x) for x in text.split(",") if x] for text in (arguments.exits, arguments.periods))
    depths = zip([*exits, shape.n_layers], [0, *periods], strict=True)
    levels = [Level(shape.name, e, n, None if k else arguments.shortlist or None) for k, (e, n) in enumerate(depths)]
    cascade = Cascade(tuple(levels), Bonus.ALWAYS)
    prompt, settings = prompt_of(arguments, shape.vocab_size), Settings(arguments.tokens)
    tokens = len(prompt) + arguments.tokens
    caches = width * tokens * (2 * shape.n_layers * shape.n_kv_heads * shape.head_dim + len(exits) * shape.hidden_size)
    decoder = Decoder(cascade, {shape.name: network}, slots=1, max_tokens=tokens)

    def decode() -> dict[str, Any]:
        began = time.thread_time()
        generation = generate_with(decoder, prompt, settings)
        thread_seconds = time.thread_time() - began
        outside = 1 - generation.record.forward_ms / generation.record.wall_ms
        passes = generation.tokens_per_target_pass(cascade)
        return {
            "text": generation.token_ids,
            "outside_forwards": outside,
            "tokens_per_target_pass": passes,
            "matched_per_drafted": generation.matched_per_drafted(1) if exits else None,
            "thread_seconds": thread_seconds,
        }

    return {"weights_mib": weights / MIB, "caches_mib": caches / MIB, "loaded_mib": loaded_mib}, decode


def transformers(arguments: argparse.Namespace) -> tuple[dict[str, Any], Decode]:
    """transformers' generate, with its own self-speculation if an exit is given."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    prompt = prompt_of(arguments, model.config.vocab_size)
    options = {
        "max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens, "do_sample": False, "pad_token_id": 0,
    } | ({"assistant_early_exit": int(arguments.exits)} if arguments.exits else {})  # fmt: skip

    def decode() -> dict[str, Any]:
        with torch.inference_mode():
            return {"text": model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()}

    return {"weights_mib": weights / MIB}, decode


def llama_cpp(arguments: argparse.Namespace) -> tuple[dict[str, Any], Decode]:
    """llama.cpp on the quantised file. It computes in the file's own 4 to 8 bits, so its text is another."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = arguments.model
    parameters.n_ctx, parameters.n_parallel = 512, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = arguments.threads
    server = xllamacpp.Server(parameters)
    request = {
        "prompt": prompt_of(arguments, arguments.vocab_size),
        "max_tokens": arguments.tokens, "n_predict": arguments.tokens,
        "temperature": 0, "ignore_eos": True, "cache_prompt": False,
    }  # fmt: skip

    def decode() -> dict[str, Any]:
        timings = server.handle_completions(request)["timings"]
        return {"text": None, "new_tokens": timings["predicted_n"]}

    return {}, decode


def torch_alone(arguments: argparse.Namespace) -> tuple[dict[str, Any], Decode]:
    """Nothing but the imports, with a product that makes torch start its threads."""
    import torch

    torch.set_num_threads(arguments.threads)
    torch.rand(64, 64) @ torch.rand(64, 64)
    return {}, dict


def peak_mib() -> float:
    """Most memory that this process has held at once. Linux counts it in getrusage from the parent's at the start on,
    but in /proc from nothing."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--model", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=0, help="llama.cpp only")
    parser.add_argument("--exits", default="", help="exit layers below the target")
    parser.add_argument("--periods", default="", help="Nd and Ni, one for each exit")
    parser.add_argument("--heads", default="", help="a folder of exit heads (hispec only)")
    parser.add_argument("--shortlist", type=int, default=0, help="most frequent tokens that level 0 reads out")
    parser.add_argument("--prompt", default="", help="token ids, such as 5,17,3 (default: random ones)")
    arguments = parser.parse_args(argv)
    answers = os.fdopen(os.dup(1), "w", buffering=1)  # libraries may print what they like
    os.dup2(2, 1)
    if arguments.kind == "llama.cpp":  # it logs every request
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    start = {"hispec": hispec, "transformers": transformers, "llama.cpp": llama_cpp, "torch": torch_alone}
    facts, decode = start[arguments.kind](arguments)
    answers.write(json.dumps({**facts, "peak_mib": peak_mib()}) + "\n")
    for _ in sys.stdin:
        began = time.perf_counter()
        found = decode()
        seconds = time.perf_counter() - began
        answers.write(json.dumps({"seconds": seconds, **found, "peak_mib": peak_mib()}) + "\n")


if __name__ == "__main__":
    main()
