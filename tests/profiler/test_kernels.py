"""Where a step's time goes: classes, FLOPs and bytes by hand, and a real breakdown of a tiny network."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

from hispec_sim.errors import InputError
from hispec_sim.models import layouts
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.linear import Layout
from hispec_sim.models.llama import Llama
from hispec_sim.networks import NetworkSpec
from hispec_sim.profiler import kernels
from hispec_sim.profiler.clock import WallClock
from hispec_sim.profiler.kernels import Breakdown, Ceilings, Kernel, break_down, classify, measure_ceilings

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("execute", "models"))
from replaying import Replaying, give_graphs
from tiny_networks import VOCABULARY, networks


@pytest.mark.parametrize(
    ("op", "shapes", "expected"),
    [
        # 3 tokens through 32 -> 96, fp32: 2 x 3 x 32 x 96 FLOPs; 96 + 3072 + 288 numbers
        ("aten::linear", [(1, 3, 32), (96, 32), ()], ("GEMM 32 x 96", 18432.0, 13824.0)),
        ("aten::mm", [(3, 32), (32, 96)], ("GEMM 32 x 96", 18432.0, 13824.0)),
        ("aten::linear", [(2, 1, 32), (32, 32), ()], ("GEMM 32 x 32", 4096.0, 4608.0)),
        ("mkldnn::_linear_pointwise", [(1, 32), (VOCABULARY, 32)], ("LM head", 64.0 * VOCABULARY, 4 * (32 + 33 * 24))),
        ("hispec::blocked_product", [(1, 3, 32), (3, 32, 32)], ("GEMM 32 x 96", 18432.0, 13824.0)),
        ("hispec::blocked_product", [(1, 32), (1, 32, 32)], ("LM head", 64.0 * VOCABULARY, 4 * (32 + 33 * 24))),
        # 2 sequences x 4 heads x 3 queries x 10 keys of 8 numbers
        (
            "aten::scaled_dot_product_attention",
            [(2, 4, 3, 8), (2, 4, 10, 8), (2, 4, 10, 8)],
            ("attention", 4.0 * 2 * 4 * 3 * 10 * 8, 4.0 * (2 * 192 + 2 * 640)),
        ),
        ("aten::rms_norm", [(1, 3, 32), (), (32,), ()], ("norm", 384.0, 768.0)),
        ("aten::linalg_vector_norm", [(1, 3, 32), (), (), ()], ("norm", 96.0, 384.0)),
        ("aten::mul", [(1, 3, 32), (32,)], ("norm", 96.0, 384.0)),
        ("aten::mul", [(1, 3, 32), (1, 3, 32)], ("activation and additions", 96.0, 1152.0)),
        ("aten::mul_", [(1, 3, 6, 4), (1, 3, 1, 4)], ("rope", 432.0, 1152.0)),
        ("aten::silu", [(1, 3, 48)], ("activation and additions", 144.0, 1152.0)),
        ("aten::embedding", [(24, 32), (1, 3)], ("embedding", 0.0, 768.0)),
        ("aten::copy_", [(1, 3, 4, 8), (1, 3, 4, 8)], ("copies", 0.0, 768.0)),
        ("aten::arange", [()], ("the rest", 0.0, 0.0)),
    ],
)
def test_operators_are_told_apart_and_counted(op, shapes, expected):
    assert classify(op, shapes, networks()["big"], 4) == expected


def test_floors_are_the_slower_of_memory_and_arithmetic():
    ceilings = Ceilings(bytes_per_s=1e9, flops_per_s=1e10)
    assert ceilings.floor_ms(1e7, 5e6) == pytest.approx(5.0)
    assert ceilings.floor_ms(1e9, 5e6) == pytest.approx(100.0)
    found = Breakdown("decode", 200.0, 210.0, (Kernel("a", 1, 120.0, 1e9, 5e6), Kernel("b", 2, 50.0, 1e7, 5e6)))
    assert found.gaps_ms == pytest.approx(40.0)
    assert found.floor_ms(ceilings) == pytest.approx(105.0)


def test_a_step_of_a_real_network(tmp_path):
    network, trace = networks()["big"], tmp_path / "trace.json"
    found = break_down(network, "verify", batch=2, query_tokens=3, context=40, clock=WallClock(), trace=trace)
    calls = {kernel.name: kernel.calls for kernel in found.kernels}
    for name in ("GEMM 32 x 64", "GEMM 32 x 32", "GEMM 32 x 96", "GEMM 48 x 32", "attention"):
        assert calls[name] == 4
    assert (calls["LM head"], calls["norm"], calls["embedding"]) == (1, 36, 1)  # a norm is four
    assert [kernel.ms for kernel in found.kernels] == sorted((k.ms for k in found.kernels), reverse=True)
    attention = next(kernel for kernel in found.kernels if kernel.name == "attention")
    assert attention.flops == 4 * (4 * 2 * 4 * 3 * 40 * 8)
    assert json.loads(trace.read_text())["traceEvents"]
    with pytest.raises(InputError, match="does not fit the 160 positions"):
        break_down(network, "verify", batch=1, query_tokens=3, context=200, clock=WallClock())


def test_products_in_blocks_are_seen(monkeypatch):
    """They are numpy's, of which torch's profiler would know nothing."""
    monkeypatch.setattr(layouts, "fastest_layout", lambda weights: Layout.BLOCKED)
    spec = NetworkSpec("two", 2, 128, 4, 2, 32, 384, 1000, True)
    network = layouts.lay_out_for_cpu(Llama(LlamaConfig(spec, 64)).eval())
    found = break_down(network, "verify", batch=1, query_tokens=3, context=40, clock=WallClock())
    products = {kernel.name: kernel.calls for kernel in found.kernels if "GEMM" in kernel.name or "head" in kernel.name}
    layer = ["GEMM 128 x 256", "GEMM 128 x 128", "GEMM 128 x 768", "GEMM 384 x 128"]
    assert products == dict.fromkeys(layer, 2) | {"LM head": 1}


class Watch(WallClock):
    """Notes of each timed step how many graphs were captured and replayed in it."""

    def __init__(self, graphs):
        self.graphs, self.seen = graphs, []

    def timed(self, work):
        before = (self.graphs.captured, self.graphs.replayed)
        ms, result = super().timed(work)
        self.seen.append((self.graphs.captured - before[0], self.graphs.replayed - before[1]))
        return ms, result


@pytest.mark.parametrize(("batch", "replayed"), [(2, True), (30, False)])
def test_a_graph_is_timed_and_its_work_profiled_without_it(batch, replayed, monkeypatch):
    """A profiler sees no operators in a replay. Of more than 64 query tokens no graph is made."""
    graphs = Replaying()
    give_graphs(monkeypatch, graphs, 1)
    clock = Watch(graphs)
    found = break_down(networks()["big"], "verify", batch=batch, query_tokens=3, context=40, clock=clock)
    assert clock.seen == [(0, int(replayed))] * kernels.STEPS + [(0, 0)] * kernels.STEPS
    assert found.replayed == replayed
    calls = {kernel.name: kernel.calls for kernel in found.kernels}
    assert (calls["GEMM 32 x 96"], calls["attention"], calls["LM head"]) == (4, 4, 1)


@pytest.mark.parametrize("replayed", [False, True])
def test_the_table_says_what_was_replayed(replayed):
    from hispec_sim.cli.profile_kernels import _table

    found = Breakdown("decode", 2.0, 3.0, (Kernel("a", 1, 1.0, 1e6, 5e6),), replayed)
    title = str(_table(found, Ceilings(1e9, 1e10)).title)
    assert title.startswith("decode: 2.000 ms")
    assert ("2.000 ms as a CUDA graph, 3.000 ms with the profiler on and without the graph" in title) == replayed


class OnMeta(TorchFunctionMode):
    """Whatever device is asked for, tensors have a shape and no values."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        return func(*args, **kwargs | ({"device": "meta"} if "device" in kwargs else {}))


@pytest.mark.parametrize(("device", "copied", "size"), [("cpu", 1 << 28, 1024), ("cuda", 1 << 30, 8192)])
def test_ceilings_are_those_of_work_that_a_launch_is_nothing_to(device, copied, size):
    """What takes a millisecond here."""
    seen = []

    class Millisecond(WallClock):
        def timed(self, work):
            seen.append(work())
            return 1.0, seen[-1]

    with OnMeta():
        ceilings = measure_ceilings(torch.device(device), torch.bfloat16, Millisecond())
    assert seen[0].nbytes == copied
    assert seen[-1].shape == (size, size)
    assert ceilings == Ceilings(1000 * 2 * copied, 1000 * 2 * size**3)


def test_ceilings_are_measured():
    ceilings = measure_ceilings(torch.device("cpu"), torch.float32, WallClock())
    assert 1e8 < ceilings.bytes_per_s < 1e13
    assert 1e8 < ceilings.flops_per_s < 1e15


def test_the_command_writes_everything(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from hispec_sim.cli.profile import profile_app
    from hispec_sim.models import loading

    class Loaded:
        network = networks()["big"]

    monkeypatch.setattr(loading, "load_model", lambda *_, **__: Loaded)
    monkeypatch.setattr(kernels, "measure_ceilings", lambda *_: Ceilings(1e10, 1e11))
    arguments = ["kernels", "--model", "tiny", "--context", "40", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(profile_app, arguments)
    assert done.exception is None, done.output
    assert "ceilings: a copy 10.0 GB/s, a product 100.0 GFLOP/s" in done.output
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"kernels.csv", "roofline.png", "trace_decode.json", "trace_verify.json"}
    with (tmp_path / "out" / "kernels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["step"] for row in rows} == {"decode", "verify"}
    again = CliRunner().invoke(profile_app, arguments)
    assert isinstance(again.exception, InputError)
