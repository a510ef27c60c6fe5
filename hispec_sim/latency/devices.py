"""Devices: the peaks that a roofline needs, and whether a network's weights fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import yaml

from hispec_sim.errors import InputError
from hispec_sim.networks import NetworkSpec

BF16_BYTES = 2
WEIGHT_SHARE = 0.9
"""Weights may take this share of a GPU's memory; the rest is for the KV cache and activations."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """Peaks of one GPU and the shares of them that kernels reach (`data/devices.yaml` gives the sources).

    GB and TFLOPS are powers of ten. `kernel_ms` and `all_reduce_ms` are the least times of a kernel and of an
    all-reduce. Raises InputError when a number makes no sense.
    """

    name: str
    memory_gb: float
    memory_gb_s: float
    bf16_tflops: float
    link_gb_s: float
    memory_efficiency: float
    compute_efficiency: float
    kernel_ms: float
    all_reduce_ms: float
    source: str

    def __post_init__(self) -> None:
        for key in ("memory_gb", "memory_gb_s", "bf16_tflops", "link_gb_s"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"device {self.name}: {key} must be a finite number above 0, got {value!r}")
        for key in ("memory_efficiency", "compute_efficiency"):
            if not 0 < getattr(self, key) <= 1:
                raise InputError(f"device {self.name}: {key} must be above 0 and at most 1")
        for key in ("kernel_ms", "all_reduce_ms"):
            if not 0 <= getattr(self, key) < math.inf:
                raise InputError(f"device {self.name}: {key} must be a finite time of at least 0")

    def ideal(self) -> DeviceSpec:
        """The same device reaching its peaks with kernels that cost nothing to start: the bare roofline."""
        return replace(self, memory_efficiency=1.0, compute_efficiency=1.0, kernel_ms=0.0, all_reduce_ms=0.0)


def weight_bytes(network: NetworkSpec) -> int:
    """Bytes of all weights in bf16; a tied embedding is the LM head and counts once."""
    ends = network.head_parameters * (1 if network.tied_embedding else 2)
    return BF16_BYTES * (network.n_layers * network.layer_parameters + ends)


def usable_tensor_parallels(network: NetworkSpec, device: DeviceSpec) -> tuple[int, ...]:
    """Those of 1, 2, 4, 8 that split both kinds of heads evenly and leave room for a KV cache (WEIGHT_SHARE)."""
    return tuple(
        tensor_parallel
        for tensor_parallel in (1, 2, 4, 8)
        if network.n_heads % tensor_parallel == 0
        and network.n_kv_heads % tensor_parallel == 0
        and weight_bytes(network) / tensor_parallel <= WEIGHT_SHARE * device.memory_gb * 1e9
    )


@cache
def known_devices() -> dict[str, DeviceSpec]:
    """Devices that ship with the product, by name (`data/devices.yaml`)."""
    text = files("hispec_sim").joinpath("data/devices.yaml").read_text(encoding="utf-8")
    return {name: DeviceSpec(name=name, **numbers) for name, numbers in yaml.safe_load(text).items()}
