"""Nothing in the decoder needs its tensors on a CPU.

There is no GPU here. Tensors on the meta device under torch's FakeTensorMode stand in: they have a device and a shape
but no values; an operation on them and on a CPU's tensors is refused, and so is reading a value. This says where
tensors are, not that CUDA's kernels take them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.execute.choosing import Chooser, Greedy, Token
from hispec_sim.execute.decoder import Decoder, Decoding
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.exits import Kind, attach, new_head
from hispec_sim.models.graphs import Graphs, Recorded, Work
from hispec_sim.models.layouts import lay_out_for_cpu
from hispec_sim.models.llama import Llama
from hispec_sim.models.picking import distributions_of
from hispec_sim.networks import NetworkSpec

VOCABULARY = 24


class Elsewhere(TorchFunctionMode):
    """Whatever a function of torch makes must be on the meta device; not even an index may come from a CPU."""

    made = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor:  # FakeTensorMode of this torch cannot copy data to the meta device in one call
            device = kwargs.pop("device", "cpu")
            with torch._C.DisableTorchFunction():
                made = torch.tensor(*args, **kwargs).to(device)
        else:
            made = func(*args, **kwargs)
        for leaf in tree_leaves((args, kwargs, made)):
            if isinstance(leaf, Tensor):
                assert leaf.device.type == "meta", f"{func} has a tensor on {leaf.device}"
                Elsewhere.made += 1
        return made


@contextmanager
def elsewhere() -> Iterator[None]:
    """Tensors without values, on another device than the CPU."""
    with FakeTensorMode(allow_non_fake_inputs=True):  # networks are on the meta device, but not fake
        yield


def network(name: str, n_layers: int, n_kv_heads: int, heads: dict[int, Kind]) -> Llama:
    """A network without values, on the meta device."""
    shape = NetworkSpec(name, n_layers, 32, 4, n_kv_heads, 8, 48, VOCABULARY, True)
    made = Llama(LlamaConfig(shape, max_positions=64)).to("meta").eval().requires_grad_(False)
    return lay_out_for_cpu(attach(made, {layer: new_head(kind, made) for layer, kind in heads.items()}))


CASCADES = {
    "one level": Cascade((Level("big", 4),)),
    "two levels": Cascade((Level("draft", 2), Level("big", 4, verify_period=2)), Bonus.ALWAYS),
    "three levels": Cascade((Level("big", 1), Level("big", 2, verify_period=2), Level("big", 4, verify_period=3))),
}


class Watched(Decoder):
    """Runs every forward under watch; `decide` judges it without reading values."""

    def _run(self, batch: Sequence[Decoding], record: Any) -> dict[int, Tensor]:
        with Elsewhere():
            read = super()._run(batch, record)
        assert {slot: logits.shape for slot, logits in read.items()} == {
            sequence.slot: (rows, VOCABULARY) for sequence in batch if (rows := sequence.node.forward.logits)
        }
        assert all(logits.device.type == "meta" for logits in read.values())
        return read


class Blind:
    """Makes the tensors that a judge makes, and takes every other token of a run."""

    def __init__(self, top_p: float | None) -> None:
        """`top_p`: of what is sampled from; greedy, unless given."""
        self._top_p = top_p
        self._calls = 0

    def judge(self, level: int, logits: Tensor, run: Sequence[Token], *, bonus: bool) -> Any:
        with Elsewhere():
            if self._top_p is None:
                chosen = logits.argmax(dim=-1)
                assert chosen.shape == logits.shape[:1]
            else:
                assert distributions_of(logits, 0.8, self._top_p).shape == logits.shape
        self._calls += 1
        matched = len(run) if self._calls % 2 else len(run) // 2
        own = Token(self._calls % VOCABULARY, level) if matched < len(run) or bonus else None
        return SimpleNamespace(matched=matched, own=own)


def doing_it_again(work: Work) -> Recorded:
    """Stands in for a CUDA graph."""
    return Recorded(lambda: None, work())


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("heads", [{}, {1: Kind.BLOCK, 2: Kind.BLOCK}, {1: Kind.ADAPTER, 2: Kind.BLOCK}], ids=str)
@pytest.mark.parametrize("cascade", CASCADES.values(), ids=CASCADES)
def test_decoding_makes_nothing_on_the_cpu(
    cascade: Cascade, heads: dict[int, Kind], slots: int, graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder's own loop, over ragged batches: every tensor of every forward and of every choice."""
    monkeypatch.setattr("hispec_sim.models.graphs.CAPTURED_WHEN_MET", 1)
    n_kv_heads = 2 if heads else 4
    networks = {"big": network("big", 4, n_kv_heads, heads), "draft": network("draft", 2, n_kv_heads, {})}
    with elsewhere():
        held_by = (None, 1.0, 0.9)
        decoder = Watched(cascade, networks, slots=slots, max_tokens=40)
        held = {name: Graphs(doing_it_again, torch.device("meta")) for name in networks}
        if graphs:
            for name, cached in decoder._networks.items():
                cached._graphs = held[name]
        before = Elsewhere.made
        outputs, _ = decoder.decode(
            [[1] * tokens for tokens in (5, 1, 9)],
            4,
            new_chooser=lambda index: cast(Chooser, Blind(held_by[index % 3])),
        )
    assert [len(output) for output in outputs] == [4] * 3
    assert Elsewhere.made - before > 100
    assert any(map(len, held.values())) == graphs


def test_the_watch_notices() -> None:
    """A CPU's tensor mixed in, one made beside, a CPU's index, and a value that is read: each is refused."""
    big = network("big", 4, 2, {})
    with elsewhere():
        cached = CachedNetwork(big, slots=1, max_tokens=8, exits=())
        with Elsewhere():
            logits = cached.forward(0, 4, [Piece(0, 0, 2, 2, [1, 2])])
        assert logits is not None
        with pytest.raises(FakeTensorDeviceMismatchError):
            logits + torch.zeros(2, VOCABULARY)
        with pytest.raises(DataDependentOutputException):
            Greedy().judge(0, logits, [], bonus=True)
        with Elsewhere(), pytest.raises(AssertionError, match="a tensor on cpu"):
            torch.arange(3)
        index = torch.arange(2)
        with Elsewhere(), pytest.raises(AssertionError, match="a tensor on cpu"):
            logits[index]
        big.rotations = big.rotations.to("cpu")
        with Elsewhere(), pytest.raises(AssertionError, match="a tensor on cpu"):
            CachedNetwork(big, slots=1, max_tokens=8, exits=()).forward(0, 4, [Piece(0, 0, 2, 2, [1, 2])])
