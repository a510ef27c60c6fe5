"""How long a product of a few tokens with each matrix of a model takes, by how the matrix lies in memory.

    python benchmarks/matrix_layouts.py --model reference [--threads 1] [--rounds 5] [--out layouts.json]

Exactly what decoding tries when it opens a model on a CPU (of an LM head only so many rows), again and again; medians
over rounds, and how often each layout was chosen.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Quietness, machine, machine_line, spread, watched, write_json

from hispec_sim.errors import InputError
from hispec_sim.models.layouts import TRIED_TOKENS, best_layout, is_tried, least_seconds
from hispec_sim.models.linear import Layout
from hispec_sim.models.loading import load_model


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write. Returns all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="as for hispec decode")
    parser.add_argument("--threads", type=int, default=1, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    facts, quietness = machine(), Quietness()
    of_shape: dict[tuple[int, ...], list[torch.Tensor]] = defaultdict(list)
    for module in load_model(arguments.model).network.modules():
        if is_tried(module):
            of_shape[tuple(module.weight.shape)].append(module.weight.detach())
    times_us: dict[tuple[int, ...], dict[Layout, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    chosen: dict[tuple[int, ...], Counter[Layout]] = defaultdict(Counter)
    round_s: list[float] = []
    with torch.inference_mode():
        for _ in watched(range(arguments.rounds), "rounds"):
            began_s = time.perf_counter()
            for shape, weights in of_shape.items():
                found = least_seconds(weights)
                chosen[shape][best_layout(found)] += 1
                for layout, seconds in found.items():
                    times_us[shape][layout].append([1e6 * s for s in seconds])
            round_s.append(time.perf_counter() - began_s)
            quietness.check()
    print(f"{machine_line(facts)}; {arguments.threads} thread(s); microseconds for {TRIED_TOKENS} tokens")
    results = []
    for shape, by_layout in times_us.items():
        print(f"{shape[0]:,} x {shape[1]:,} ({len(of_shape[shape])} of them)")
        for layout, rounds in by_layout.items():
            middle = np.median(rounds, axis=0)
            print(
                f"  {layout.value:11}{', '.join(f'{us:,.0f}' for us in middle):28} chosen {chosen[shape][layout]} times"
            )
            results.append({"shape": shape, "layout": layout.value, "us": rounds, "chosen": chosen[shape][layout]})
    print(f"all shapes are tried in {spread(round_s, 2)} s")
    print(quietness)
    found_all = {"machine": facts, "threads": arguments.threads, "model": arguments.model, "tokens": TRIED_TOKENS,
                 "layouts": results, "quietness": quietness.report()}  # fmt: skip
    if arguments.out is not None:
        write_json(arguments.out, found_all)
    return found_all


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
