"""Exit heads in files: fp16 weights, and a card that says which network they fit and where they come from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from hispec_sim.errors import InputError
from hispec_sim.models.exits import HEADS, ExitHead, Kind, check_sizes
from hispec_sim.models.llama import Llama, dtype_of
from hispec_sim.models.memory import enough_memory
from hispec_sim.models.optional import optional

CARD, WEIGHTS = "exits.json", "exits.safetensors"
FORMAT = 1
FINGERPRINT = "network"
FINGERPRINT_ROWS = 16
SAME_NETWORK = 0.3
"""Relative difference of fingerprints; other roundings and quantisations of one network differ by less than 0.15,
another network by more than 1."""


def save_heads(
    folder: Path, network: Llama, heads: Mapping[int, ExitHead], provenance: Mapping[str, Any] | None = None
) -> None:
    """Write heads (fp16) and what they fit and came from (JSON); the folder is made. Each file is replaced in one move,
    and the card names its weights' hash, so that a mixture of two savings is noticed.

    `provenance` is plain data: command, seed, tokens, agreement. Raises InputError if the heads are of several kinds,
    ValueError if a weight does not fit fp16.
    """
    kinds = {head.kind for head in heads.values()}
    if len(kinds) != 1:
        raise InputError(f"exit heads are saved one kind at a time, got {len(kinds)}")
    tensors = {
        f"{exit_layer}.{name}": parameter.detach().to("cpu", torch.float16).contiguous()
        for exit_layer, head in heads.items()
        for name, parameter in head.named_parameters()
    }
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError("a weight of an exit head is not finite in fp16")
    tensors[FINGERPRINT] = _fingerprint(network).half().cpu()
    content = optional("safetensors.torch").save(tensors)
    card = Card(
        format=FORMAT,
        kind=kinds.pop(),
        exit_layers=sorted(heads),
        network={**asdict(network.config.shape), "rope_theta": network.config.rope_theta},
        weights_sha256=hashlib.sha256(content).hexdigest(),
        provenance=dict(provenance or {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, written in ((WEIGHTS, content), (CARD, (card.model_dump_json(indent=2) + "\n").encode())):
        unfinished = folder / f"{name}.new"
        unfinished.write_bytes(written)
        unfinished.replace(folder / name)


class Card(BaseModel):
    """What stands in exits.json."""

    format: int
    kind: Kind
    exit_layers: list[int]
    network: dict[str, Any]
    weights_sha256: str
    provenance: dict[str, Any] = {}


def read_card(folder: Path) -> Card:
    """What a folder says of its heads. Raises InputError if it holds none that this version can read."""
    path = folder / CARD
    if not path.is_file():
        raise InputError(
            f"{folder} holds no exit heads: there is no {CARD} in it (a run of training puts both in heads/)"
        )
    try:
        content = json.loads(_content(path))
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise InputError(f"{path} is of format {content.get('format')!r}; this version reads {FORMAT}")
        return Card.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is damaged ({where or 'all of it'}: {first['msg']}): copy it again") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): copy it again") from None


def load_heads(folder: Path, network: Llama, exits: Iterable[int] | None = None) -> dict[int, ExitHead]:
    """The heads of a folder for the exit layers asked for (all it has by default), ready for `attach`.

    Raises InputError if a file is missing or damaged, if the heads fit another network, if an exit has none, or if
    memory runs out.
    """
    card = read_card(folder)
    _check_network(card, network, folder)
    wanted = card.exit_layers if exits is None else sorted(set(exits))
    lacking = [str(exit_layer) for exit_layer in wanted if exit_layer not in card.exit_layers]
    if lacking:
        have = ", ".join(map(str, card.exit_layers))
        raise InputError(
            f"{folder} has exit heads for layers {have}, none for {', '.join(lacking)}; train one, or leave the exit "
            "to the final norm and LM head"
        )
    with torch.device("meta"):
        numbers = sum(parameter.numel() for parameter in HEADS[card.kind](network.config).parameters())
    size = len(wanted) * numbers * dtype_of(network).itemsize
    with enough_memory(
        lambda: (f"exit heads from {folder} for layers {', '.join(map(str, wanted))}", size),
        "take fewer exits, dtype bf16 or a smaller model",
    ):
        return _heads(card, _tensors(folder, card), network, folder, wanted)


def _heads(
    card: Card, tensors: dict[str, Tensor], network: Llama, folder: Path, wanted: Iterable[int]
) -> dict[int, ExitHead]:
    _check_fingerprint(tensors.pop(FINGERPRINT, None), network, folder)
    heads: dict[int, ExitHead] = {}
    for exit_layer in wanted:
        head = HEADS[card.kind](network.config)
        mine = {
            name.removeprefix(f"{exit_layer}."): tensor.float()
            for name, tensor in tensors.items()
            if name.startswith(f"{exit_layer}.")
        }
        sizes = {name: tuple(tensor.shape) for name, tensor in mine.items()}
        check_sizes(head, sizes, f"{folder / WEIGHTS}: the head of exit {exit_layer}", network.config.shape.name)
        head.load_state_dict(mine)
        heads[exit_layer] = head.to(network.embedding.weight.device, dtype_of(network)).requires_grad_(False).eval()
    return heads


def _tensors(folder: Path, card: Card) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"{folder} lacks {WEIGHTS}: copy it too")
    content = _content(path)
    if hashlib.sha256(content).hexdigest() != card.weights_sha256:
        raise InputError(f"{path} is damaged, or not the file that {CARD} describes: copy both again")
    loaded: dict[str, Tensor] = optional("safetensors.torch").load(content)
    return loaded


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; make it readable") from None


def _check_network(card: Card, network: Llama, folder: Path) -> None:
    config = network.config
    ours = {**asdict(config.shape), "rope_theta": config.rope_theta}
    for key, value in ours.items():
        theirs = card.network.get(key)
        same = (
            math.isclose(value, theirs, rel_tol=1e-4)
            if isinstance(value, float) and isinstance(theirs, int | float)
            else value == theirs
        )
        if key not in ("name", "tied_embedding") and not same:
            raise InputError(
                f"{folder} holds exit heads for {card.network.get('name')} with {key} {theirs}; network "
                f"{config.shape.name} has {key} {value}: they do not belong together"
            )
    outside = [layer for layer in card.exit_layers if not 1 <= layer < config.shape.n_layers]
    if outside or not card.exit_layers:
        raise InputError(
            f"{folder / CARD} is damaged: exit layers {card.exit_layers} of {config.shape.n_layers} layers"
        )


def _fingerprint(network: Llama) -> Tensor:
    """Some rows of the embedding: tells one network from another of the same shape."""
    vocabulary = network.config.shape.vocab_size
    rows = torch.linspace(0, vocabulary - 1, min(FINGERPRINT_ROWS, vocabulary)).long()
    return network.embedding.weight.detach()[rows.to(network.embedding.weight.device)].float()


def _check_fingerprint(theirs: Tensor | None, network: Llama, folder: Path) -> None:
    ours = _fingerprint(network).cpu()
    if theirs is None or theirs.shape != ours.shape or (theirs - ours).norm() > SAME_NETWORK * ours.norm():
        raise InputError(
            f"{folder} holds exit heads trained on other weights than those of {network.config.shape.name}, although "
            "the shape is the same; train heads for this network"
        )
