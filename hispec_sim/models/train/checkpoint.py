"""One file holds all of an unfinished run: weights and optimizer state as safetensors, the rest as JSON in its header.

One file, replaced in one move, so that an interruption at any moment leaves either the old or the new state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hispec_sim.errors import InputError
from hispec_sim.models.optional import optional

NAME = "checkpoint.safetensors"
_WEIGHT, _STATE = "weight/", "optimizer/"


def save_checkpoint(folder: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, rest: Any) -> None:
    """Write `rest` (plain data) and all tensors. Raises OSError when the disk does."""
    save_file = optional("safetensors.torch").save_file

    tensors: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        tensors[_WEIGHT + name] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{_STATE}{key}/{name}"] = value
    unfinished = folder / (NAME + ".new")
    save_file({name: t.contiguous() for name, t in tensors.items()}, unfinished, metadata={"run": json.dumps(rest)})
    unfinished.replace(folder / NAME)


def load_checkpoint(folder: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """Fill network and optimizer from the folder's checkpoint; returns `rest`. Raises InputError if it does not fit."""
    safe_open = optional("safetensors").safe_open

    rest = read_rest(folder)
    path = folder / NAME
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name, parameter in network.named_parameters():
            if _WEIGHT + name not in names:
                raise InputError(f"{path} has no weights {name}: it belongs to another network")
            with torch.no_grad():
                parameter.copy_(file.get_tensor(_WEIGHT + name))
            prefixes = {key.split("/")[1] for key in names if key.startswith(_STATE)}
            state = {key: f"{_STATE}{key}/{name}" for key in prefixes}
            optimizer.state[parameter] = {k: file.get_tensor(n) for k, n in state.items() if n in names}
    return rest


def read_rest(folder: Path) -> Mapping[str, Any]:
    """The plain data of a checkpoint. Raises InputError when there is none, or none that can be read."""
    safetensors = optional("safetensors")

    path = folder / NAME
    if not path.is_file():
        raise InputError(f"there is no {NAME} in {folder}; nothing to resume")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            rest = json.loads((file.metadata() or {})["run"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(rest, dict):
        raise InputError(f"{path} is not a checkpoint of a training run")
    return rest
