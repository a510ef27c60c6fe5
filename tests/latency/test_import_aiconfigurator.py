"""Making the shipped profiles again. All but the first tests need `pip install "hispec-sim[aiconfigurator]"`."""

from __future__ import annotations

import importlib.util
import shlex
import sys

import numpy as np
import pytest
from latency_fakes import SHIPPED
from typer.testing import CliRunner

from hispec_sim.cli.profile import profile_app
from hispec_sim.errors import InputError
from hispec_sim.latency import NetworkCost, read_profile
from hispec_sim.latency.aiconfigurator_tables import AiconfiguratorTables
from hispec_sim.latency.import_aiconfigurator import import_profile
from hispec_sim.latency.shard import Shard
from hispec_sim.networks import known_networks

needs_tables = pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None, reason="aiconfigurator-core is not installed"
)
NETWORK = known_networks()["llama-3.2-1b"]


def test_the_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiconfigurator_core.sdk", None)
    with pytest.raises(InputError, match=r'pip install "hispec-sim\[aiconfigurator\]"'):
        import_profile(NETWORK, "h100_sxm", date="2025-01-01", command="")


def test_unknown_backend_and_device():
    with pytest.raises(InputError, match="backend must be one of sglang, vllm, trtllm, got 'onnx'"):
        import_profile(NETWORK, "h100_sxm", backend="onnx", date="2025-01-01", command="")
    with pytest.raises(InputError, match="unknown device 'tpu'; known devices are a100_sxm"):
        import_profile(NETWORK, "tpu", date="2025-01-01", command="")


@needs_tables
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_recorded_command_makes_the_same_bytes(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, group, *arguments = shlex.split(read_profile(path).provenance.command)
    assert (program, group) == ("hispec", "profile")
    result = CliRunner().invoke(profile_app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "profiles" / path.parent.name / path.name).read_bytes() == path.read_bytes()


@needs_tables
@pytest.mark.parametrize(("kind", "bounds"), [("verify", (0.03, 0.08)), ("prefill", (0.04, 0.15))])
@pytest.mark.parametrize("network", ["llama-3.1-70b", "llama-3.2-1b", "llama-2-7b"])
def test_a_whole_forward_off_the_grid_against_the_tables_themselves(network, kind, bounds, capsys):
    path = next(path for path in SHIPPED if path.parent.name == "h100_sxm" and path.stem == network)
    profile, tables = read_profile(path), AiconfiguratorTables("h100_sxm", "sglang")
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(150):
        shard = Shard(profile.network, int(rng.choice(profile.tensor_parallels)))
        if kind == "verify":
            batch, span, cached = _log_uniform(rng, 1, 65), int(rng.integers(1, 13)), _log_uniform(rng, 128, 16384)
            context = float(cached)
            attention_ms = tables.verify_attention(*shard.heads, batch, span, cached)[0]
        else:
            span, cached = _log_uniform(rng, 20, 8000), int(rng.choice([0, _log_uniform(rng, 50, 16000)]))
            batch = int(rng.integers(1, max(2, min(16, 16384 // span))))
            context = cached + (span + 1) / 2
            read_ms = tables.decode_attention(*shard.heads, batch, round(context))[0]
            attention_ms = max(read_ms, tables.prefill_attention(*shard.heads, batch, span, cached)[0])
        composed_ms = NetworkCost(profile, tensor_parallel=shard.tensor_parallel).forward_ms(
            first_layer=0,
            last_layer=profile.network.n_layers,
            batch=batch,
            tokens=batch * span,
            logits=batch,
            context=context,
        )
        errors.append(float(composed_ms) / _direct_ms(tables, shard, batch, span, attention_ms) - 1)
    median, p95 = np.quantile(np.abs(errors), [0.5, 0.95])
    with capsys.disabled():
        print(f"\n{profile.name}, {kind}: forwards off the grid: median {median:.1%}, p95 {p95:.1%}", end=" ")
    assert median < bounds[0]
    assert p95 < bounds[1]


def _log_uniform(rng: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(rng.uniform(np.log(low), np.log(high))))


def _direct_ms(tables: AiconfiguratorTables, shard: Shard, batch: int, span: int, attention_ms: float) -> float:
    """The forward from direct questions, without a grid between; `batch` rows of logits."""
    network, tokens = shard.network, batch * span
    layer_ms = attention_ms + sum(tables.gemm(n, k, tokens)[0] for n, k in shard.layer_gemms)
    layer_ms += sum(tables.elementwise(*widths, tokens)[0] for widths in shard.layer_elementwise)
    ends_ms = tables.gemm(shard.vocab_size, network.hidden_size, batch)[0]
    ends_ms += tables.embedding(shard.vocab_size, network.hidden_size, tokens)[0]
    if shard.tensor_parallel > 1:
        all_reduce_ms = tables.custom_all_reduce(network.hidden_size, shard.tensor_parallel, tokens)[0]
        layer_ms += 2 * all_reduce_ms
        ends_ms += all_reduce_ms
    return network.n_layers * layer_ms + ends_ms
