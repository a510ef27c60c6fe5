"""The most memory that loading and decoding take, against the weights and caches that they need.

    python benchmarks/peak_memory.py [--model FOLDER_OR_GGUF ...] [--out memory.json]

By default: SmolLM2 from its GGUF file and from a folder, by us and by transformers. Each runs in a process of its own,
whose peak resident set counts everything, mapped files too. `torch` is what a process holds that imports torch and
nothing else; the second ratio leaves it out. Weights are counted once, in fp32; a head tied to the embedding is packed
into a second copy for speed, which the ratio therefore includes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contender import Process
from measuring import machine, machine_line, write_json

from hispec_sim.errors import InputError
from hispec_sim.models.files.safetensors_folder import save_folder
from hispec_sim.models.loading import load_model


def peak(kind: str, *arguments: str) -> dict[str, Any]:
    """Memory of one contender in MiB: what it says after loading, and its peak after one decode."""
    process = Process(kind, *arguments)
    answer = process.decode()
    process.close()
    return {**process.loaded, "peak_mib": answer["peak_mib"]}


def main(argv: Sequence[str] | None = None) -> None:
    """Print peaks and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", help="folders or .gguf files")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    arguments = parser.parse_args(argv)
    facts = machine()
    print(machine_line(facts))
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.model is None:
            loaded, folder = load_model("smollm2"), Path(temporary) / "smollm2"
            save_folder(loaded.network, folder)
            models = [folder, loaded.source]
            del loaded
        else:
            models = [Path(model) for model in arguments.model]
        torch_mib = peak("torch")["peak_mib"]
        print(f"torch alone: {torch_mib:.0f} MiB")
        rows = []
        for model in models:
            for kind in ("hispec", "transformers") if model.is_dir() else ("hispec",):
                row = {"model": model.name, "kind": kind, **peak(kind, "--model", str(model))}
                needed = row["weights_mib"] + row.get("caches_mib", 0)
                row |= {
                    "ratio": row["peak_mib"] / needed,
                    "ratio_without_torch": (row["peak_mib"] - torch_mib) / needed,
                }
                rows.append(row)
                print(
                    f"{model.name} by {kind}: peak {row['peak_mib']:.0f} MiB for {needed:.0f} MiB of weights and "
                    f"caches: {row['ratio']:.2f}x, without torch {row['ratio_without_torch']:.2f}x"
                )
    if arguments.out is not None:
        write_json(arguments.out, {"machine": facts, "torch_mib": torch_mib, "rows": rows})


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
