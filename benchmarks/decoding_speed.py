"""How fast the executor decodes, against what a user would run instead: transformers' generate on the same weights.

    python benchmarks/decoding_speed.py [--model smollm2] [--threads 1 2] [--tokens 64] [--rounds 5]

Without --model a small deep network with random weights is decoded: its text is noise, its time is not. All contenders
decode the same prompt greedily, in turn within each round; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.execute.generate import Settings, generate
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.llama import Llama
from hispec_sim.models.loading import load_model
from hispec_sim.models.packed import pack_for_cpu
from hispec_sim.models.safetensors_folder import save_folder
from hispec_sim.networks import NetworkSpec

PROMPT_TOKENS = 32


def small_network() -> Llama:
    """Deep and narrow, where dispatch dominates: the regime of a GPU at small batch."""
    torch.manual_seed(1)
    shape = NetworkSpec("small", 24, 128, 2, 2, 64, 352, 2048, True)
    return Llama(LlamaConfig(shape, max_positions=1024)).eval().requires_grad_(False)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print tokens per second of each contender and its ratio to transformers' generate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="as for hispec decode; default: a small random network")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=64, help="new tokens per run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default %(default)s)")
    arguments = parser.parse_args()
    network = small_network() if arguments.model is None else load_model(arguments.model).network
    shape = network.config.shape
    with tempfile.TemporaryDirectory() as folder:
        save_folder(network, Path(folder) / "model")
        pack_for_cpu(network)
        theirs = AutoModelForCausalLM.from_pretrained(Path(folder) / "model").eval()
    prompt = torch.randint(3, shape.vocab_size, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(2)).tolist()
    options = {
        "max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens, "do_sample": False, "pad_token_id": 0,
    }  # fmt: skip
    settings = Settings(max_new_tokens=arguments.tokens)
    early = max(1, shape.n_layers // 8)
    plain = Cascade((Level(shape.name, shape.n_layers),))
    self_speculative = Cascade((Level(shape.name, early), Level(shape.name, shape.n_layers, 4)), Bonus.ALWAYS)
    ids = torch.tensor([prompt])
    contenders: dict[str, Callable[[], object]] = {
        "transformers generate": lambda: theirs.generate(ids, **options),
        "hispec autoregressive": lambda: generate(plain, {shape.name: network}, prompt, settings),
        f"transformers early exit {early}": lambda: theirs.generate(ids, assistant_early_exit=early, **options),
        f"hispec early exit {early}": lambda: generate(self_speculative, {shape.name: network}, prompt, settings),
    }
    print(f"{shape.name}: {shape.n_layers} layers of {shape.hidden_size}, {arguments.tokens} new tokens")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        with torch.inference_mode():
            for round_ in range(arguments.rounds + 1):
                for name, work in contenders.items():
                    elapsed = seconds(work)
                    if round_:  # the first is a warm-up
                        times[name].append(elapsed)
        base = times["transformers generate"]
        for name, elapsed_s in times.items():
            ratios = [theirs_s / ours_s for theirs_s, ours_s in zip(base, elapsed_s, strict=True)]
            print(
                f"  {threads} thread(s)  {name:28} {arguments.tokens / statistics.median(elapsed_s):8.1f} tokens/s   "
                f"{statistics.median(ratios):5.2f}x  ({min(ratios):.2f} .. {max(ratios):.2f})"
            )
        record = generate(plain, {shape.name: network}, prompt, settings).record
        print(f"  {threads} thread(s)  outside forwards: {1 - record.forward_ms / record.wall_ms:.1%} of wall time")


if __name__ == "__main__":
    main()
