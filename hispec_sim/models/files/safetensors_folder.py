"""Reading and writing a Hugging Face model folder: config.json and safetensors files. Pickles are never opened."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hispec_sim.errors import InputError
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.files.hf_config import config_json, read_config, read_json
from hispec_sim.models.files.tokenizer import Tokenizer
from hispec_sim.models.files.weights import SMALLER, Names, Part, Shape, empty_network, fill, match, parts
from hispec_sim.models.llama import Llama, dtype_of
from hispec_sim.models.memory import enough_memory
from hispec_sim.models.optional import optional
from hispec_sim.models.rope import to_halves

NAMES = Names(
    embedding="model.embed_tokens.weight",
    norm="model.norm.weight",
    head="lm_head.weight",
    attention_norm="model.layers.{}.input_layernorm.weight",
    query="model.layers.{}.self_attn.q_proj.weight",
    key="model.layers.{}.self_attn.k_proj.weight",
    value="model.layers.{}.self_attn.v_proj.weight",
    output="model.layers.{}.self_attn.o_proj.weight",
    mlp_norm="model.layers.{}.post_attention_layernorm.weight",
    gate="model.layers.{}.mlp.gate_proj.weight",
    up="model.layers.{}.mlp.up_proj.weight",
    down="model.layers.{}.mlp.down_proj.weight",
)
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
READABLE = {"F64", "F32", "F16", "BF16"}


def load_folder(folder: Path, *, dtype: str = "fp32", device: str = "cpu") -> Llama:
    """The network in a folder, ready to decode; memory is one copy of the weights and one tensor.

    Raises InputError naming the file, the tensor and both shapes if the folder is not a whole Llama network.
    """
    config = folder_config(folder)
    files = _weight_files(folder)
    shapes = _shapes(files)
    _check_tied(config.shape.tied_embedding, shapes, folder, files)
    wanted = match(config, NAMES, shapes, str(folder))
    network = empty_network(config, dtype, device)
    fill(network, wanted, _tensors(files), halves=True)
    return network


def folder_config(folder: Path) -> LlamaConfig:
    """The network that a folder's config.json describes. Raises InputError if there is none, or if `Llama` does not
    compute it."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a model folder: it holds no config.json")
    return read_config(folder / "config.json", folder.resolve().name)


def save_folder(
    network: Llama,
    folder: Path,
    *,
    tokenizer: Tokenizer | None = None,
    overwrite: bool = False,
    shard_bytes: int = 2 << 30,
) -> None:
    """Write a folder that transformers and `load_folder` read, all of it or nothing.

    Weights are split over files of about `shard_bytes`, which is also the memory that saving takes. Raises InputError
    if `folder` exists, unless `overwrite` is given and it holds nothing but a model.
    """
    _check_free(folder, overwrite)
    staging = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder.parent}: {error.strerror}; give another place") from None
    try:
        config = config_json(network.config, str(dtype_of(network)).removeprefix("torch."))
        texts = {"config.json": json.dumps(config, indent=2) + "\n"} | (tokenizer.files() if tokenizer else {})
        for name, text in texts.items():
            (staging / name).write_text(text, encoding="utf-8")
        _write_shards(network, staging, shard_bytes)
        if folder.exists():
            old = folder.with_name(f".{folder.name}-{os.getpid()}-old")
            folder.rename(old)
            staging.rename(folder)
            shutil.rmtree(old)
        else:
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        where = read_json(index).get("weight_map")
        if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
            raise InputError(f"{index} holds no weight_map: download it again")
        files = [folder / Path(name).name for name in sorted(set(where.values()))]
    else:
        files = sorted(folder.glob("*.safetensors"))
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise InputError(f"{folder} lacks {', '.join(absent)}, which {INDEX} lists: download them too")
    if files:
        return files
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise InputError(
            f"{folder} holds its weights as pickles ({pickles[0]}), which can run any code when opened and are "
            "refused. Convert them where you trust them, with transformers: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )
    raise InputError(f"{folder} holds no weights: no file ends in .safetensors")


def _open(file: Path) -> Any:
    """A safetensors file, as a context manager."""
    safetensors = optional("safetensors")
    try:
        return safetensors.safe_open(file, framework="pt", device="cpu")
    except (safetensors.SafetensorError, OSError) as error:
        cure = "it is a Git LFS pointer; run git lfs pull" if _is_pointer(file) else "download it again"
        raise InputError(f"{file} is not a whole safetensors file ({error}): {cure}") from None


def _is_pointer(file: Path) -> bool:
    """Whether Git LFS has left its note of a file in the file's place. Raises InputError if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(40).startswith(b"version https://git-lfs")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; make it readable") from None


def _shapes(files: list[Path]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for file in files:
        with _open(file) as opened:
            for name in opened.keys():  # noqa: SIM118
                if name.endswith("rotary_emb.inv_freq"):  # old files keep what follows from the configuration
                    continue
                if name in shapes:
                    raise InputError(f"{file}: {name} is in another file too; keep one set of weights in the folder")
                view = opened.get_slice(name)
                if view.get_dtype() not in READABLE:
                    raise InputError(
                        f"{file}: {name} is stored as {view.get_dtype()}, which is not supported; "
                        f"take a checkpoint in one of {', '.join(sorted(READABLE))}"
                    )
                shapes[name] = tuple(view.get_shape())
    return shapes


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with _open(file) as opened:
            names = list(opened.keys())
        for name in names:
            with _open(file) as opened:  # anew, because what has been read counts as memory until the file is closed
                with enough_memory(partial(_stored, file, name, opened), SMALLER):
                    tensor = opened.get_tensor(name)
                yield name, tensor


def _stored(file: Path, name: str, opened: Any) -> tuple[str, int]:
    view = opened.get_slice(name)
    width = int(view.get_dtype().lstrip("BF")) // 8  # of those in READABLE
    return f"tensor {name} from {file}", width * math.prod(view.get_shape())


def _check_tied(tied: bool, shapes: dict[str, Shape], folder: Path, files: list[Path]) -> None:
    """A head that is stored though it is tied may be left out of account only if it equals the embedding."""
    if tied and NAMES.head in shapes and NAMES.embedding in shapes:
        pair = {name: tensor for name, tensor in _tensors(files) if name in (NAMES.head, NAMES.embedding)}
        if not torch.equal(pair[NAMES.head], pair[NAMES.embedding]):
            raise InputError(
                f"{folder}: tie_word_embeddings is true, but {NAMES.head} differs from {NAMES.embedding}; "
                "set it to false in config.json if the head is its own"
            )
        del shapes[NAMES.head]


def _check_free(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give another place")
    if not overwrite and any(folder.iterdir()):
        raise InputError(f"{folder} already holds something; say that it may be overwritten, or give another place")
    ours = (".json", ".safetensors", ".jinja")
    foreign = [path.name for path in folder.iterdir() if path.is_dir() or path.suffix not in ours]
    if foreign:
        raise InputError(f"{folder} holds more than a model ({foreign[0]}); give another place")


def _write_shards(network: Llama, folder: Path, shard_bytes: int) -> None:
    save_file = optional("safetensors.torch").save_file
    parameters = dict(network.named_parameters())
    shards: list[dict[str, Part]] = [{}]
    size = total = 0
    width = dtype_of(network).itemsize
    for name, part in parts(network.config, NAMES).items():
        here = width * torch.Size(part.shape).numel()
        if shards[-1] and size + here > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = part
        size += here
        total += here
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        tensors = {name: _cut(parameters[part.parameter].detach(), part, network) for name, part in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _cut(parameter: Tensor, part: Part, network: Llama) -> Tensor:
    rows = parameter[part.first_row : part.first_row + part.shape[0]].cpu()
    if part.rotary:
        rows = to_halves(rows, network.config.shape.head_dim)
    return rows.clone(memory_format=torch.contiguous_format)
