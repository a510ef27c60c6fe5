"""Which file tensor goes where in a network, whatever the file format, and putting it there tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hispec_sim.errors import InputError
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.llama import Llama
from hispec_sim.models.memory import enough_memory
from hispec_sim.models.rope import to_neighbours

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SMALLER = "take dtype bf16 or a smaller model, or another device"
MOST_POSITIONS = 1 << 22
"""The rotary table has a row for each; a damaged length would fill the memory."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """What a file format calls each weight; `{}` stands for the layer's number."""

    embedding: str
    norm: str
    head: str
    attention_norm: str
    query: str
    key: str
    value: str
    output: str
    mlp_norm: str
    gate: str
    up: str
    down: str


@dataclass(frozen=True, slots=True)
class Part:
    """One file tensor: rows of the parameter `parameter`, from `first_row` on. `rotary` says that rotary positions turn
    these rows, so that their order within a head matters."""

    parameter: str
    shape: Shape
    first_row: int = 0
    rotary: bool = False


def parts(config: LlamaConfig, names: Names) -> dict[str, Part]:
    """Every tensor that a file must hold, by its name there."""
    shape = config.shape
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    found = {names.embedding: Part("embedding.weight", (shape.vocab_size, hidden))}
    for index in range(shape.n_layers):
        layer = f"layers.{index}"
        mine = {
            names.attention_norm: Part(f"{layer}.attention_norm.weight", (hidden,)),
            names.query: Part(f"{layer}.qkv.weight", (queries, hidden), rotary=True),
            names.key: Part(f"{layer}.qkv.weight", (keys, hidden), queries, rotary=True),
            names.value: Part(f"{layer}.qkv.weight", (keys, hidden), queries + keys),
            names.output: Part(f"{layer}.output.weight", (hidden, queries)),
            names.mlp_norm: Part(f"{layer}.mlp_norm.weight", (hidden,)),
            names.gate: Part(f"{layer}.gate_up.weight", (inner, hidden)),
            names.up: Part(f"{layer}.gate_up.weight", (inner, hidden), inner),
            names.down: Part(f"{layer}.down.weight", (hidden, inner)),
        }
        found |= {name.format(index): part for name, part in mine.items()}
    found[names.norm] = Part("norm.weight", (hidden,))
    if not shape.tied_embedding:
        found[names.head] = Part("head.weight", (shape.vocab_size, hidden))
    return found


def match(config: LlamaConfig, names: Names, shapes: Mapping[str, Shape], where: str) -> dict[str, Part]:
    """What goes where. Raises InputError, naming tensors and shapes, unless a file holds exactly the tensors needed."""
    if config.shape.n_layers > len(shapes):
        raise InputError(
            f"{where} holds {len(shapes)} tensors, too few for {config.shape.n_layers} layers: "
            "the download is incomplete, or its configuration belongs to another network"
        )
    if config.max_positions > MOST_POSITIONS:
        raise InputError(
            f"{where} is said to have {config.max_positions} positions, more than the {MOST_POSITIONS} that are "
            "supported: its configuration is damaged"
        )
    wanted = parts(config, names)
    missing = [name for name in wanted if name not in shapes]
    if missing:
        raise InputError(
            f"{where} lacks {_some(missing)} (expected shape {wanted[missing[0]].shape}): "
            "the download is incomplete, or its configuration belongs to another network"
        )
    for name, part in wanted.items():
        if shapes[name] != part.shape:
            raise InputError(
                f"{where}: {name} has shape {shapes[name]}, expected {part.shape}: "
                "the weights do not belong to this configuration"
            )
    unknown = [name for name in shapes if name not in wanted]
    if unknown:
        raise InputError(
            f"{where} also holds {_some(unknown)}, which a Llama network does not have: another architecture, "
            "or adapters to be merged first"
        )
    return wanted


def empty_network(config: LlamaConfig, dtype: str, device: str) -> Llama:
    """A network whose weights are allocated in `dtype` on `device`, and not initialised.

    Raises InputError if this torch does not know the type, cannot reach the device or finds no memory there.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    with torch.device("meta"), _NoDraws():
        network = Llama(config)
    size = DTYPES[dtype].itemsize * sum(weight.numel() for weight in network.parameters())
    try:
        torch.empty(1, device=device)
        with enough_memory(lambda: (f"weights of network {config.shape.name} in {dtype} on {device}", size), SMALLER):
            for module in network.modules():
                for name, weight in list(module.named_parameters(recurse=False)):
                    if module is network.head and config.shape.tied_embedding:
                        continue
                    module.register_parameter(
                        name, nn.Parameter(torch.empty(weight.shape, dtype=DTYPES[dtype], device=device))
                    )
            network.rotations = network.rotations.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot place network {config.shape.name} on device {device!r}: {reason}") from None
    if config.shape.tied_embedding:
        network.head.weight = network.embedding.weight
    return network.eval()


class _NoDraws(TorchFunctionMode):
    """Leaves out the drawing of initial weights. For tensors without contents, torch would load its compiler for it: 70
    MB and two seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return None  # layers draw in place
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def fill(network: Llama, wanted: Mapping[str, Part], tensors: Iterable[tuple[str, Tensor]], *, halves: bool) -> None:
    """Copy file tensors into the network, one at a time. `halves` says that the file keeps the rows of rotary
    projections in Hugging Face's order, not in neighbouring pairs."""
    parameters = dict(network.named_parameters())
    for name, tensor in tensors:
        if name in wanted:
            part = wanted[name]
            with enough_memory(partial(_copy, name, tensor), SMALLER):
                if halves and part.rotary:
                    tensor = to_neighbours(tensor, network.config.shape.head_dim)
                parameters[part.parameter][part.first_row : part.first_row + part.shape[0]].copy_(tensor)


def _copy(name: str, tensor: Tensor) -> tuple[str, int]:
    return f"a copy of tensor {name}", tensor.nbytes


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"tensor {names[0]}{more}"
