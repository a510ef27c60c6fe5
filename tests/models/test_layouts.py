"""Packed weights give the same logits, take the place of the plain ones, and are left out where they do not help."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch import nn

from hispec_sim.models import layouts, linear
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.layouts import fastest_layout, lay_out_for_cpu
from hispec_sim.models.linear import (
    BlockedLinear,
    Layout,
    Linear,
    PackedLinear,
    TransposedLinear,
    layout_of,
    plain_weight,
)
from hispec_sim.models.llama import Llama
from hispec_sim.networks import NetworkSpec

TOKENS = torch.arange(24).reshape(2, 12)


def network(*, hidden: int = 512, tied: bool = True) -> Llama:
    """Two layers of random weights."""
    torch.manual_seed(3)
    return Llama(LlamaConfig(NetworkSpec("two", 2, hidden, 4, 2, 64, 3 * hidden, 1000, tied), 64)).eval()


def layouts_of(made: Llama) -> set[Layout]:
    """How its matrices lie."""
    return {layout_of(module) for module in made.modules() if isinstance(module, Linear)}


needs_onednn = pytest.mark.skipif(not layouts._can_pack(), reason="this torch was built without oneDNN")


def always(layout: Layout) -> Callable[[Sequence[torch.Tensor]], Layout]:
    return lambda weights: layout


@needs_onednn
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", list(Layout)[1:])
@torch.inference_mode()
def test_logits_stay_and_memory_does_not_grow(tied: bool, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 1e-4, for one token and for many; of the plain weights only the embedding and the norms are left."""
    monkeypatch.setattr(layouts, "fastest_layout", always(layout))
    plain, made = network(tied=tied), lay_out_for_cpu(network(tied=tied))
    assert layouts_of(made) == {layout}
    assert {name.split(".")[-2].split("_")[-1] for name, _ in made.named_parameters()} == {"embedding", "norm"}
    torch.testing.assert_close(plain_weight(made.head), plain.head.weight, rtol=0, atol=0)
    for tokens in (
        TOKENS,
        TOKENS.repeat(4, 1),
        TOKENS[:1, :1],
        TOKENS[:1, :2],
        TOKENS[:, :1],
        TOKENS[:, :2],
        TOKENS[:1, :5],
    ):
        torch.testing.assert_close(made(tokens), plain(tokens), rtol=1e-4, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize(
    ("plain_ms", "transposed_ms", "blocked_ms", "packed_ms", "widened_ms", "layout"),
    [
        ((10, 30, 60), (10, 30, 60), (10, 30, 60), (10, 15, 30), 10, Layout.PACKED),
        ((10, 30, 60), (10, 30, 60), (10, 30, 60), (10, 15, 30), 8, Layout.WIDENED),
        ((10, 20, 40), (14, 20, 40), (11, 20, 40), (20, 20, 40), 20, Layout.PLAIN),
        ((10, 20, 40), (8, 18, 30), (8, 20, 40), (20, 20, 40), 20, Layout.TRANSPOSED),
        ((10, 20, 40), (8, 12, 24), (10, 20, 40), (10, 11, 22), 10, Layout.TRANSPOSED),  # 2.05 of 3, then 2.1: no gain
        ((10, 20, 40), (8, 12, 24), (8, 12, 24), (8, 9, 18), 8, Layout.PACKED),
        ((10, 20, 40), (8, 12, 24), (7, 10, 20), (7, 10, 20), 7, Layout.BLOCKED),
        ((10, 20, 40), (10, 19, 40), (10, 20, 39), (10, 20, 39), 10, Layout.PLAIN),  # within 5 %
    ],
)
@torch.inference_mode()
def test_the_fastest_layout_is_found(
    plain_ms: tuple[int, ...],
    transposed_ms: tuple[int, ...],
    blocked_ms: tuple[int, ...],
    packed_ms: tuple[int, ...],
    widened_ms: int,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that products move. One slow trial decides nothing, and neither does what the caches hold."""
    times, forgotten, tokens = list[float](), [0], list(layouts.TRIED_TOKENS)
    of_layout = {Layout.PLAIN: plain_ms, Layout.TRANSPOSED: transposed_ms,
                 Layout.BLOCKED: blocked_ms, Layout.PACKED: packed_ms,
                 Layout.WIDENED: (widened_ms, *packed_ms[1:])}  # fmt: skip

    def timed(real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def product(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] == 1:  # and not the probe of what torch can do
                assert forgotten[0] > len(times) / 3, "before every trial of three layers"
                times.append(of_layout[layout_of(self)][tokens.index(x.shape[1])] if times else 100)
            return real(self, x)

        return product

    add_ = torch.Tensor.add_
    monkeypatch.setattr(layouts.time, "perf_counter", lambda: sum(times) / 1000)
    for kind in (nn.Linear, TransposedLinear, BlockedLinear, PackedLinear):
        monkeypatch.setattr(kind, "forward", timed(kind.forward))
    monkeypatch.setattr(torch.Tensor, "add_", lambda self, n: forgotten.append(forgotten.pop() + 1) or add_(self, n))
    assert fastest_layout([torch.ones(1024, 512) for _ in range(3)]) is layout


@needs_onednn
@torch.inference_mode()
def test_each_shape_has_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices that are faster plain stay as they are, and so does a tied head's memory."""
    tried: list[tuple[int, int, int]] = []

    def fastest(weights: Sequence[torch.Tensor]) -> Layout:
        tried.append((len(weights), *weights[0].shape))
        return Layout.PACKED if weights[0].shape[0] > 1000 else Layout.PLAIN

    monkeypatch.setattr(layouts, "fastest_layout", fastest)
    made = network()
    head = made.head
    lay_out_for_cpu(made)
    assert made.head is head
    assert head.weight is made.embedding.weight
    assert sorted(tried) == [(1, 1000, 512), (2, 512, 256), (2, 512, 512), (2, 512, 1536), (2, 3072, 512)]
    packed_shapes = {tuple(plain_weight(m).shape) for m in made.modules() if isinstance(m, PackedLinear)}
    assert packed_shapes == {(3072, 512)}


@pytest.mark.parametrize(
    ("shape", "number"), [((64, 64), 1), ((128, 128), 3), ((512, 512), 4), ((1024, 512), 5), ((4096, 2048), 5)]
)
@needs_onednn
@torch.inference_mode()
def test_what_is_tried(shape: tuple[int, int], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices are not packed, nor widened: it gains nothing anywhere. Of large ones a part is tried."""
    made: list[tuple[Layout, int]] = []
    large = shape == (4096, 2048)
    laid_out = layouts.laid_out
    monkeypatch.setattr(layouts, "_can_pack", lambda: True)
    monkeypatch.setattr(layouts, "laid_out", lambda w, layout: made.append((layout, len(w))) or laid_out(w, layout))
    tried = layouts.least_seconds([torch.ones(shape) for _ in range(9)])
    assert list(tried) == list(Layout)[:number]
    assert all(len(each) == len(layouts.TRIED_TOKENS) and min(each) > 0 for each in tried.values())
    at_once = {(1024, 512): 4, (4096, 2048): 1}.get(shape, 8)
    assert [layout for layout, _ in made] == [layout for layout in tried for _ in range(at_once)]
    assert {rows for _, rows in made} == {1024 if large else shape[0]}


@pytest.mark.parametrize(("hidden", "dtype"), [(8, torch.float32), (512, torch.bfloat16)])
def test_small_and_half_precision_networks_are_left_alone(
    hidden: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to gain, or the layouts are not made for the type."""
    monkeypatch.setattr(layouts, "fastest_layout", always(Layout.TRANSPOSED))
    made = network(hidden=hidden)
    for weight in made.parameters():
        weight.data = weight.data.to(dtype)
    assert layouts_of(lay_out_for_cpu(made)) == {Layout.PLAIN}


def test_a_torch_that_cannot_pack_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other layouts are tried."""

    def absent(weight: torch.Tensor, layout: Layout) -> Linear:
        if layout in (Layout.PACKED, Layout.WIDENED):
            raise AttributeError("_reorder_linear_weight")
        return linear.laid_out(weight, layout)

    monkeypatch.setattr(layouts, "laid_out", absent)
    assert layouts_of(lay_out_for_cpu(network())) <= {Layout.PLAIN, Layout.TRANSPOSED, Layout.BLOCKED}


def test_numpy_multiplies_blocks_with_one_thread() -> None:
    """As many as it takes by itself would take more than torch was given, and would only wait for each other."""
    BlockedLinear(torch.ones(64, 8))
    found = ThreadpoolController().select(internal_api="openblas").info()
    assert {each["num_threads"] for each in found} <= {1}
