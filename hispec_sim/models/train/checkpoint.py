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


def load_checkpoint(folder: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Mapping[str, Any]:
    """Fill network and optimizer from the folder's checkpoint; returns `rest`. Raises InputError if it does not fit."""
    rest = read_rest(folder)
    path = folder / NAME
    load_weights(path, network)
    with optional("safetensors").safe_open(path, framework="pt") as file:
        keys = [key.split("/", 2) for key in file.keys() if key.startswith(_STATE)]  # noqa: SIM118
        for name, parameter in network.named_parameters():
            optimizer.state[parameter] = {
                key: file.get_tensor(f"{_STATE}{key}/{name}") for _, key, owner in keys if owner == name
            }
    return rest


def load_weights(path: Path, network: torch.nn.Module) -> None:
    """Fill a network from a checkpoint. Raises InputError if its weights are another network's."""
    with optional("safetensors").safe_open(path, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys() if key.startswith(_WEIGHT)}  # noqa: SIM118
        parameters = {_WEIGHT + name: parameter for name, parameter in network.named_parameters()}
        if shapes != {key: tuple(parameter.shape) for key, parameter in parameters.items()}:
            raise InputError(f"{path} holds the weights of another network than its run.json describes")
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(file.get_tensor(key))


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
