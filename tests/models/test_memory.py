"""Memory that runs out is one sentence, whatever was being made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest
import torch

from hispec_sim.errors import InputError
from hispec_sim.models import layouts, rope
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.config import LlamaConfig, RopeScaling
from hispec_sim.models.exits import AdapterHead, Kind, new_head
from hispec_sim.models.files.exit_files import load_heads, save_heads
from hispec_sim.models.files.gguf_file import StoredTensor, _dequantised
from hispec_sim.models.files.weights import empty_network
from hispec_sim.models.linear import Layout
from hispec_sim.models.llama import Llama
from hispec_sim.models.memory import enough_memory
from hispec_sim.networks import NetworkSpec

CONFIG = LlamaConfig(NetworkSpec("tiny", 3, 32, 4, 2, 8, 48, 97, True), max_positions=64)


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize("slots", [1 << 40, 1 << 60])
def test_caches_beyond_the_memory_of_a_cpu(slots: int) -> None:
    """The allocator really fails. Per token: 3 layers of 2 x 2 x 8, and one exit of 32, in 4 bytes: 512 bytes."""
    size = f"{slots * 16 * 512 / 2**30:.3g}"
    with pytest.raises(InputError) as caught:
        CachedNetwork(Llama(CONFIG), slots=slots, max_tokens=15, exits=(1, 3))
    assert str(caught.value) == (
        f"out of memory: caches of network tiny for {slots} sequences of 15 tokens of {size} GiB cannot be made: "
        "decode fewer or shorter sequences at once, or take dtype bf16 or a smaller model"
    )


def test_weights_beyond_the_memory_of_a_cpu() -> None:
    """An embedding of 2^40 rows; its head is tied to it and counts once."""
    huge = LlamaConfig(NetworkSpec("huge", 1, 32, 4, 2, 8, 48, 1 << 40, True), max_positions=64)
    with pytest.raises(InputError, match=r"weights of network huge in bf16 on cpu of 6\.55e\+04 GiB"):
        empty_network(huge, "bf16", "cpu")


def test_a_forward_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's error. The largest tensor is gate and up: 2 x 5 tokens x 2 x 48, in 4 bytes."""
    cached = CachedNetwork(Llama(CONFIG), slots=2, max_tokens=15, exits=())
    pieces = [Piece(slot, 0, tokens, 1, [1] * tokens) for slot, tokens in enumerate((5, 3))]
    monkeypatch.setattr(CachedNetwork, "_span", raising(torch.OutOfMemoryError("CUDA out of memory. Tried to ...")))
    with pytest.raises(InputError) as caught:
        cached.forward(0, 3, pieces)
    assert f"for 10 tokens (2 x 5), with a tensor of {3840 / 2**30:.3g} GiB cannot be made: shorten the" in str(
        caught.value
    )


def test_other_errors_of_a_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very same error comes out."""
    cached = CachedNetwork(Llama(CONFIG), slots=1, max_tokens=15, exits=())
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    monkeypatch.setattr(CachedNetwork, "_span", raising(error))
    with pytest.raises(RuntimeError) as caught:
        cached.forward(0, 3, [Piece(0, 0, 1, 1, [1])])
    assert caught.value is error


def test_dequantising_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's error is a MemoryError."""
    gguf = pytest.importorskip("gguf")
    monkeypatch.setattr(gguf, "dequantize", raising(MemoryError()))
    data = np.zeros((1 << 15, 4), np.uint8)
    (tmp_path / "it.gguf").write_bytes(data.tobytes())
    tensor = StoredTensor((1 << 15, 1 << 14), None, data.dtype, (4,), 0)
    file = SimpleNamespace(path=tmp_path / "it.gguf", tensors={"token_embd.weight": tensor})
    with pytest.raises(InputError, match=r"token_embd\.weight from .*it\.gguf, dequantised, of 2 GiB cannot be made"):
        _dequantised(file, "token_embd.weight")  # type: ignore[arg-type]


@pytest.mark.parametrize("words", ["DefaultCPUAllocator: not enough memory: you tried", "can't allocate memory: you"])
def test_the_words_of_every_allocator(words: str) -> None:
    """Windows, Linux."""
    with (
        pytest.raises(InputError, match="a thing of 3 GiB cannot be made: do"),
        enough_memory(lambda: ("a thing", 3 << 30), "do"),
    ):
        raise RuntimeError(words)


@pytest.mark.parametrize("what", ["fastest_layout", "laid_out"])
def test_laying_out_without_memory(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While layouts are tried, and while the found one is made. The largest matrix is gate and up: 2 x 256 x 128."""
    network = Llama(LlamaConfig(NetworkSpec("wide", 1, 128, 4, 2, 32, 256, 97, True), max_positions=64))
    monkeypatch.setattr(layouts, "fastest_layout", lambda weights: Layout.TRANSPOSED)
    monkeypatch.setattr(layouts, what, raising(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")))
    with pytest.raises(InputError) as caught:
        layouts.lay_out_for_cpu(network)
    assert str(caught.value) == (
        f"out of memory: matrices of network wide, laid out anew, the largest of {2**18 / 2**30:.3g} GiB cannot be "
        "made: take dtype bf16 or a smaller model, or another device"
    )


def test_positions_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rotations for each of 64 positions, in 8 bytes."""
    monkeypatch.setattr(torch, "polar", raising(MemoryError()))
    with pytest.raises(InputError) as caught:
        Llama(CONFIG)
    assert str(caught.value) == (
        f"out of memory: rotations of 64 positions of network tiny of {2048 / 2**30:.3g} GiB cannot be made: give the "
        "network fewer positions (max_position_embeddings, in a GGUF file llama.context_length)"
    )


def test_the_rotations_of_many_positions_are_made_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision no more than `AT_ONCE`, and the same numbers as all at once."""
    config, sizes, polar = replace(CONFIG, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16)), list[int](), torch.polar
    whole = rope.rotations(config, 1000)
    monkeypatch.setattr(rope, "AT_ONCE", 77)
    monkeypatch.setattr(torch, "polar", lambda one, angle: sizes.append(len(angle)) or polar(one, angle))
    assert torch.equal(rope.rotations(config, 1000), whole)
    assert sizes == [77] * 12 + [76]


def test_exit_heads_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter has 32 x 32 weights and a norm of 32; two of them, in 4 bytes."""
    network = Llama(CONFIG)
    save_heads(tmp_path, network, {layer: new_head(Kind.ADAPTER, network) for layer in (1, 2)})
    monkeypatch.setattr(AdapterHead, "to", raising(torch.OutOfMemoryError("CUDA out of memory. Tried to ...")))
    with pytest.raises(InputError) as caught:
        load_heads(tmp_path, network)
    assert str(caught.value) == (
        f"out of memory: exit heads from {tmp_path} for layers 1, 2 of {8448 / 2**30:.3g} GiB cannot be made: take "
        "fewer exits, dtype bf16 or a smaller model"
    )
