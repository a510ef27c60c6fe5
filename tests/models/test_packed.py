"""Packed weights give the same logits, take the place of the plain ones, and are left out where they do not help."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from hispec_sim.models import packed
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.llama import Llama
from hispec_sim.models.packed import Layout, PackedLinear, fastest_layout, pack_for_cpu
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


def always(layout: Layout) -> Callable[[Sequence[torch.Tensor]], Layout]:
    return lambda weights: layout


@needs_onednn
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("widens", [True, False])
@torch.inference_mode()
def test_logits_stay_and_memory_does_not_grow(tied: bool, widens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 1e-4, for one token and for many; of the plain weights only the embedding and the norms are left."""
    monkeypatch.setattr(packed, "fastest_layout", always(Layout.WIDENED if widens else Layout.PACKED))
    plain, made = network(tied=tied), pack_for_cpu(network(tied=tied))
    assert kinds(made) == {PackedLinear}
    assert {module.widens for module in made.modules() if isinstance(module, PackedLinear)} == {widens}
    assert {name.split(".")[-2].split("_")[-1] for name, _ in made.named_parameters()} == {"embedding", "norm"}
    for tokens in (TOKENS, TOKENS[:1, :1], TOKENS[:1, :2], TOKENS[:, :1], TOKENS[:, :2], TOKENS[:1, :5]):
        torch.testing.assert_close(made(tokens), plain(tokens), rtol=1e-4, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize(
    ("plain_ms", "packed_ms", "widened_ms", "layout"),
    [
        ((10, 30), (10, 15), 10, Layout.PACKED),
        ((10, 30), (10, 15), 8, Layout.WIDENED),
        ((10, 20), (14, 15), 13, Layout.PLAIN),  # half as long again for one token, three quarters for four
        ((10, 20), (14, 15), 8, Layout.WIDENED),
        ((10, 20), (10, 20), 10, Layout.PLAIN),
    ],
)
@torch.inference_mode()
def test_the_fastest_layout_is_found(
    plain_ms: tuple[int, int],
    packed_ms: tuple[int, int],
    widened_ms: int,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that products of one and of four tokens move; one slow trial decides nothing, and neither does what
    the caches hold."""
    times, forgotten, place = list[float](), [0], {1: 0, 4: 1}
    plain_product, packed_product, add_ = nn.Linear.forward, PackedLinear.forward, torch.Tensor.add_

    def timed(ms: float) -> None:
        assert forgotten[0] > len(times) / 3, "before every trial of three layers"
        times.append(ms if times else 100)

    def of_plain(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        timed(plain_ms[place[x.shape[-2]]])
        return plain_product(self, x)

    def of_packed(self: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        timed(widened_ms if self.widens and x.shape[-2] == 1 else packed_ms[place[x.shape[-2]]])
        return packed_product(self, x)

    def add(self: torch.Tensor, number: int) -> torch.Tensor:
        forgotten[0] += 1
        return add_(self, number)

    monkeypatch.setattr(packed.time, "perf_counter", lambda: sum(times))
    monkeypatch.setattr(nn.Linear, "forward", of_plain)
    monkeypatch.setattr(PackedLinear, "forward", of_packed)
    monkeypatch.setattr(torch.Tensor, "add_", add)
    assert fastest_layout([torch.ones(1024, 512) for _ in range(3)]) is layout


@needs_onednn
@torch.inference_mode()
def test_each_shape_has_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices that are faster plain stay as they are, and so does a tied head's memory; small ones are not tried."""
    tried: list[tuple[int, int, int]] = []

    def fastest(weights: Sequence[torch.Tensor]) -> Layout:
        tried.append((len(weights), *weights[0].shape))
        return Layout.PACKED if weights[0].shape[0] > 1000 else Layout.PLAIN

    monkeypatch.setattr(packed, "fastest_layout", fastest)
    made = network()
    head = made.head
    pack_for_cpu(made)
    assert made.head is head
    assert head.weight is made.embedding.weight
    assert sorted(tried) == [(1, 1000, 512), (2, 512, 256), (2, 512, 512), (2, 512, 1536), (2, 3072, 512)]
    packed_shapes = {tuple(m.packed.shape) for m in made.modules() if isinstance(m, PackedLinear)}
    assert packed_shapes == {(3072, 512)}


@needs_onednn
@torch.inference_mode()
def test_small_matrices_are_not_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    """They gain nothing anywhere."""
    seen: list[bool] = []
    real = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: seen.append(self.widens) or real(self, x))
    fastest_layout([torch.ones(512, 512)])
    assert set(seen) == {False}
    fastest_layout([torch.ones(1024, 512)])
    assert set(seen) == {False, True}


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
