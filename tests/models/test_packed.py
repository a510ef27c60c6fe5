"""Packed weights give the same logits, take the place of the plain ones, and are left out where they do not help."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hispec_sim.models import packed
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.llama import Llama
from hispec_sim.models.packed import PackedLinear, pack_for_cpu
from hispec_sim.networks import NetworkSpec

TOKENS = torch.arange(24).reshape(2, 12)


def network(*, hidden: int = 512, tied: bool = True) -> Llama:
    """Two layers of random weights."""
    torch.manual_seed(3)
    return Llama(LlamaConfig(NetworkSpec("two", 2, hidden, 4, 2, 64, 3 * hidden, 1000, tied), 64)).eval()


def kinds(made: Llama) -> set[type]:
    """What its matrices are."""
    return {type(module) for module in made.modules() if isinstance(module, nn.Linear | PackedLinear)}


needs_onednn = pytest.mark.skipif(not packed._can_pack(), reason="this torch was built without oneDNN")


@needs_onednn
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("widens", [True, False])
@torch.inference_mode()
def test_logits_stay_and_memory_does_not_grow(tied: bool, widens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 1e-4, for one token and for many; of the plain weights only the embedding and the norms are left."""
    monkeypatch.setattr(packed, "_widening_pays", lambda large: widens)
    plain, made = network(tied=tied), pack_for_cpu(network(tied=tied))
    assert kinds(made) == {PackedLinear}
    assert {module.widens for module in made.modules() if isinstance(module, PackedLinear) and module.large} == {widens}
    assert {name.split(".")[-2].split("_")[-1] for name, _ in made.named_parameters()} == {"embedding", "norm"}
    for tokens in (TOKENS, TOKENS[:1, :1], TOKENS[:1, :2], TOKENS[:, :1], TOKENS[:, :2], TOKENS[:1, :5]):
        torch.testing.assert_close(made(tokens), plain(tokens), rtol=1e-4, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize(("one_ms", "four_ms", "widens"), [(3, 2, True), (3, 3, False), (2, 3, False)])
@torch.inference_mode()
def test_tokens_are_widened_where_that_takes_less_time(
    one_ms: int, four_ms: int, widens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that products move; and one slow trial decides nothing."""
    times, real = list[float](), PackedLinear._product

    def product(self: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        if (ms := {1: one_ms, 4: four_ms}.get(x.shape[-2])) is not None:
            times.append(ms if times else 100)
        return real(self, x)

    monkeypatch.setattr(packed.time, "perf_counter", lambda: sum(times))
    monkeypatch.setattr(PackedLinear, "_product", product)
    made = pack_for_cpu(network(hidden=1024))
    assert {module.widens for module in made.modules() if isinstance(module, PackedLinear) and module.large} == {widens}
    assert not any(module.widens for module in made.modules() if isinstance(module, PackedLinear) and not module.large)


@pytest.mark.parametrize(("hidden", "dtype"), [(64, torch.float32), (512, torch.bfloat16)])
def test_small_and_half_precision_networks_are_left_alone(hidden: int, dtype: torch.dtype) -> None:
    """Packing would cost more than it saves, or is not made for the type."""
    made = network(hidden=hidden)
    for weight in made.parameters():
        weight.data = weight.data.to(dtype)
    assert kinds(pack_for_cpu(made)) == {nn.Linear}


def test_a_torch_that_cannot_pack_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs as it did."""

    def absent(weight: torch.Tensor) -> None:
        raise AttributeError("_reorder_linear_weight")

    monkeypatch.setattr(packed, "PackedLinear", absent)
    assert kinds(pack_for_cpu(network())) == {nn.Linear}
