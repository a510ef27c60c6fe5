"""Reading a network from a GGUF file (llama.cpp's format), dequantised tensor by tensor.

llama.cpp keeps the rows of query and key projections in neighbouring pairs, as we do: nothing is reordered.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hispec_sim.errors import InputError
from hispec_sim.models.config import LlamaConfig, RopeScaling
from hispec_sim.models.files.weights import SMALLER, Names, empty_network, fill, match
from hispec_sim.models.llama import Llama
from hispec_sim.models.memory import enough_memory, give_back
from hispec_sim.models.optional import optional
from hispec_sim.models.rope import rotations
from hispec_sim.networks import NetworkSpec

NAMES = Names(
    embedding="token_embd.weight",
    norm="output_norm.weight",
    head="output.weight",
    attention_norm="blk.{}.attn_norm.weight",
    query="blk.{}.attn_q.weight",
    key="blk.{}.attn_k.weight",
    value="blk.{}.attn_v.weight",
    output="blk.{}.attn_output.weight",
    mlp_norm="blk.{}.ffn_norm.weight",
    gate="blk.{}.ffn_gate.weight",
    up="blk.{}.ffn_up.weight",
    down="blk.{}.ffn_down.weight",
)
FREQUENCIES = "rope_freqs.weight"
BLOCK = 1 << 20
"""Weights that are dequantised at once."""
DAMAGED = (ValueError, IndexError, KeyError, OverflowError, OSError, MemoryError, TypeError, AssertionError)

T = TypeVar("T", bool, int, float, str)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor is in its file. The reader's own descriptions hold on to everything it has read.

    `shape` is torch's order of dimensions; `rows_shape` is what a row of it is stored as, in numbers of `dtype`.
    """

    shape: tuple[int, ...]
    quantisation: Any
    dtype: np.dtype[Any]
    rows_shape: tuple[int, ...]
    offset_bytes: int

    @classmethod
    def of(cls, tensor: Any) -> StoredTensor:
        """From the gguf library's description."""
        shape = tuple(map(int, reversed(tensor.shape)))
        data = tensor.data
        return cls(shape, tensor.tensor_type, np.dtype(data.dtype), data.shape[1:], int(tensor.data_offset))


class GgufFile:
    """An open GGUF file: typed metadata, and tensors by name.

    Raises InputError if the file is not one, is cut short or damaged, or is one piece of several.
    """

    def __init__(self, path: Path) -> None:
        gguf = optional("gguf")
        self.path = path
        if not path.is_file():
            raise InputError(f"cannot read {path}: there is no such file")
        try:
            with np.errstate(all="ignore"):
                reader = _bounded(gguf.GGUFReader)(path)
            self._fields = {key: _plain(field) for key, field in reader.fields.items()}
            self.tensors = {tensor.name: StoredTensor.of(tensor) for tensor in reader.tensors}
        except DAMAGED as error:
            raise InputError(f"{path} is not a whole GGUF file ({error}): download it again") from None
        del reader
        give_back()
        if self.get("split.count", int, 1) > 1:
            raise InputError(f"{path} is one piece of several; join them with llama-gguf-split --merge")

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """A metadata value. Raises InputError if it is missing without a default, or of another kind."""
        value = self._contents(key)
        if value is None:
            if default is None:
                raise InputError(f"{self.path} lacks the metadata {key}: it is incomplete, or of another architecture")
            return default
        if kind is float and isinstance(value, int):
            value = float(value)
        if type(value) is not kind:
            raise InputError(f"{self.path}: metadata {key} is {str(value)[:40]!r}, expected one {kind.__name__}")
        return value

    def get_list(self, key: str) -> list[Any]:
        """A list in the metadata; empty if there is none."""
        value = self._contents(key)
        return value if isinstance(value, list) else []

    def _contents(self, key: str) -> Any:
        value = self._fields.get(key)
        try:
            if isinstance(value, Exception):
                raise value
            return value.read() if isinstance(value, Texts) else value
        except DAMAGED as error:
            raise InputError(f"{self.path}: metadata {key} is damaged ({error}): download it again") from None


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts as it stands in a file, each behind its length (8 bytes)."""

    stored: bytes
    count: int

    @classmethod
    def at(cls, offset: int, count: int, data: memoryview) -> Texts:
        """So many from an offset on. Raises ValueError if the file ends before."""
        end = offset
        for _ in range(count):
            end += 8 + int.from_bytes(data[end : end + 8], sys.byteorder)
            if end > len(data):
                raise ValueError("it ends too early")
        return cls(bytes(data[offset:end]), count)

    def read(self) -> list[str]:
        """The texts."""
        texts, end = [], 0
        for _ in range(self.count):
            start = end + 8
            end = start + int.from_bytes(self.stored[end:start], sys.byteorder)
            texts.append(self.stored[start:end].decode())
        return texts


def _plain(field: Any) -> Any:
    """A field's value, texts as they are stored, or the error of reading it, which matters only if it is asked for. The
    field itself would keep the file open."""
    try:
        last = field.parts[-1]
        return last if isinstance(last, Texts) else field.contents()
    except DAMAGED as error:
        return error


def _bounded(reader: Any) -> Any:
    """The reader, refusing to read behind the end of the file, where damaged lengths would keep it forever. It takes a
    list at once: a vocabulary of 49,152 tokens, each read as several arrays, would take seconds and 130 MB."""
    gguf = optional("gguf")
    array, string = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING

    class Bounded(reader):  # type: ignore[misc]
        def _get(self, offset: int, dtype: Any, count: int = 1, *others: Any, **more: Any) -> Any:
            if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError("it ends too early")
            return super()._get(offset, dtype, count, *others, **more)

        def _get_field_parts(self, offset: int, kind: int) -> Any:
            if kind != array or self.byte_order != "I":
                return super()._get_field_parts(offset, kind)
            item, count = int(self._get(offset, np.uint32)[0]), int(self._get(offset + 4, np.uint64)[0])
            first = offset + 12  # behind the kind of the items and their number
            if item == string:
                texts = Texts.at(first, count, memoryview(self.data))
                return first - offset + len(texts.stored), [texts], [0], [array, string]
            if item not in self.gguf_scalar_to_np:
                return super()._get_field_parts(offset, kind)
            values = self._get(first, self.gguf_scalar_to_np[item], count)
            return first - offset + values.nbytes, [values], [0], [array, gguf.GGUFValueType(item)]

    return Bounded


def load_gguf(file: GgufFile, *, dtype: str = "fp32", device: str = "cpu") -> Llama:
    """The network in a GGUF file, dequantised and ready to decode; memory is one copy of the weights and one tensor.

    Raises InputError naming metadata, tensors and shapes if it is not a whole Llama network.
    """
    config = read_config(file)
    shapes = {name: tensor.shape for name, tensor in file.tensors.items() if name != FREQUENCIES}
    wanted = match(config, NAMES, shapes, str(file.path))
    network = empty_network(config, dtype, device)
    fill(network, wanted, _tensors(file), halves=False)
    give_back()
    return network


def read_config(file: GgufFile) -> LlamaConfig:
    """The network that the metadata and the embedding describe. Raises InputError if `Llama` does not compute it."""
    architecture = file.get("general.architecture", str)
    if architecture != "llama":
        raise InputError(f"{file.path}: architecture {architecture!r} is not supported, only llama is")
    if file.get("llama.expert_count", int, 0):
        raise InputError(f"{file.path}: mixtures of experts are not supported")
    n_heads, hidden_size = file.get("llama.attention.head_count", int), file.get("llama.embedding_length", int)
    head_dim = file.get("llama.attention.key_length", int, hidden_size // max(n_heads, 1))
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if file.get(key, int, head_dim) != head_dim:
            raise InputError(
                f"{file.path}: {key} is {file.get(key, int)}, only the head's size, {head_dim}, is supported"
            )
    scaling = file.get("llama.rope.scaling.type", str, "none")
    if scaling != "none":
        raise InputError(f"{file.path}: rotary scaling {scaling!r} is not supported, only llama3 is")
    embedding = file.tensors.get(NAMES.embedding)
    if embedding is None or len(embedding.shape) != 2:
        raise InputError(f"{file.path} lacks {NAMES.embedding}, a matrix: it holds no whole network")
    try:
        shape = NetworkSpec(
            name=file.path.stem,
            n_layers=file.get("llama.block_count", int),
            hidden_size=hidden_size,
            n_heads=n_heads,
            n_kv_heads=file.get("llama.attention.head_count_kv", int, n_heads),
            head_dim=head_dim,
            intermediate_size=file.get("llama.feed_forward_length", int),
            vocab_size=embedding.shape[0],
            tied_embedding=NAMES.head not in file.tensors,
        )
        positions = file.get("llama.context_length", int)
        theta = file.get("llama.rope.freq_base", float, 10_000.0)
        eps = file.get("llama.attention.layer_norm_rms_epsilon", float)
        plain = LlamaConfig(shape, positions, theta, None, eps)
        if FREQUENCIES not in file.tensors:
            return plain
        return LlamaConfig(shape, positions, theta, _scaling(plain, file), eps)
    except InputError as error:
        raise error if str(file.path) in str(error) else InputError(f"{file.path}: {error}") from None


def _scaling(plain: LlamaConfig, file: GgufFile) -> RopeScaling:
    """Llama 3's scaling, which GGUF keeps as one divisor per frequency: accepted if the published constants of Llama
    3.1 to 3.3 (stretch unknown, 1, 4, 8192) give the same divisors."""
    divisors = _dequantised(file, FREQUENCIES).flatten()
    stretch = round(float(divisors.max()), 4)
    if divisors.numel() == plain.shape.head_dim // 2 and stretch > 0:
        scaling = RopeScaling(stretch, 1.0, 4.0, 8192)
        scaled = LlamaConfig(plain.shape, 2, plain.rope_theta, scaling, plain.norm_eps)
        expected = rotations(plain, 2)[1].angle() / rotations(scaled, 2)[1].angle()
        if torch.allclose(divisors, expected, rtol=1e-4):
            return scaling
    raise InputError(f"{file.path}: the rotary scaling in {FREQUENCIES} is not Llama 3's, which alone is supported")


def _tensors(file: GgufFile) -> Iterator[tuple[str, Tensor]]:
    for name in file.tensors:
        yield name, _dequantised(file, name)


def _dequantised(file: GgufFile, name: str) -> Tensor:
    """One tensor in fp32, in torch's order of dimensions. It is read block by block: what is mapped counts as memory
    until the file is closed, and dequantising takes several times the memory of its result."""
    gguf, tensor = optional("gguf"), file.tensors[name]
    size = 4 * math.prod(tensor.shape)
    with enough_memory(lambda: (f"tensor {name} from {file.path}, dequantised,", size), SMALLER):
        whole = torch.empty(tensor.shape)
        rows = max(1, BLOCK * len(whole) // max(1, whole.numel()))
        for first in range(0, len(whole), rows):
            shape = (min(rows, len(whole) - first), *tensor.rows_shape)
            at = tensor.offset_bytes + first * tensor.dtype.itemsize * math.prod(tensor.rows_shape)
            try:
                data = np.fromfile(file.path, tensor.dtype, math.prod(shape), offset=at).reshape(shape)
                values = gguf.dequantize(data, tensor.quantisation)
            except NotImplementedError:
                raise InputError(
                    f"{file.path}: {name} is quantised as {tensor.quantisation.name}, which the gguf library cannot "
                    "dequantise; take another quantisation of the network"
                ) from None
            whole[first : first + rows] = torch.from_numpy(np.require(values, np.float32, "W"))
    return whole
