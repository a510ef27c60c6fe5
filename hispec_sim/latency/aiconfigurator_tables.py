"""NVIDIA's measured kernel tables (aiconfigurator-core, Apache-2.0), one question at a time.

The optional package is imported when `AiconfiguratorTables` is made, and nowhere else. Every answer is
`(milliseconds, measured)`: `measured` is true only where the asked shape is itself a row of a table, not where the
package's engine interpolates between rows or uses a formula.
"""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

from hispec_sim.errors import InputError

Answer = tuple[float, bool]

_PACKED_HEADS_MAX = 128  # the most query heads that the attention tables hold
# Kernels take the same time for all shorter contexts (9.2 us from 2 to 128 tokens, H100, 16 heads); the engine's
# estimate for untabulated head sizes runs away there, so contexts below are asked here.
_SHORTEST_CONTEXT = 128


class AiconfiguratorTables:
    """The tables of one device under one serving framework (`sglang`, `vllm`, `trtllm`)."""

    def __init__(self, device: str, backend: str) -> None:
        try:
            from aiconfigurator_core.sdk import common, engine, operations
            from aiconfigurator_core.sdk.perf_database import get_database
        except ImportError as error:
            raise InputError(
                f"importing from aiconfigurator needs a package that is not installed ({error}). "
                'Install it with `pip install "hispec-sim[aiconfigurator]"`.'
            ) from None
        logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)
        self._common, self._engine_module, self._operations = common, engine, operations
        try:
            self._database: Any = get_database(device, backend, "current")
        except Exception as error:  # the package raises several kinds of its own
            raise InputError(f"aiconfigurator has no tables for {device} under {backend}: {error}") from None
        if self._database is None:
            raise InputError(f"aiconfigurator has no tables for device {device!r} under backend {backend!r}")
        self._engine: Any = engine.EngineHandle.for_database(self._database)
        for op in ("GEMM", "GenerationAttention", "CustomAllReduce", "NCCL"):
            getattr(operations, op).load_data(self._database)
        self._bf16_gemm = self._database._gemm_data[common.GEMMQuantMode.bfloat16]
        self._decode = self._database._generation_attention_data[common.KVCacheQuantMode.bfloat16]

    @property
    def software(self) -> dict[str, str]:
        """Versions of what the numbers come from."""
        database = self._database
        return {
            "aiconfigurator-core": version("aiconfigurator-core"),
            "tables": f"{database.backend} {database.version}",
            "nccl": str(database.system_spec["misc"]["nccl_version"]),
        }

    def gemm(self, n: int, k: int, tokens: int) -> Answer:
        """(tokens, k) @ (k, n) in bf16."""
        op = self._operations.GEMM("gemm", 1, n, k, self._common.GEMMQuantMode.bfloat16)
        known = tokens in self._bf16_gemm and n in self._bf16_gemm[tokens] and k in self._bf16_gemm[tokens][n]
        return self._ask(op, batch=tokens, s=1, x=tokens), known

    def decode_attention(self, heads: int, kv_heads: int, head_dim: int, batch: int, context: int) -> Answer:
        """One query token in each of `batch` sequences over `context` cached ones."""
        lookup = 0 if heads == kv_heads else kv_heads  # the tables file multi-head attention under 0
        op = self._operations.GenerationAttention(
            "attention", 1, heads, kv_heads, self._common.KVCacheQuantMode.bfloat16, head_size=head_dim
        )
        ms = self._ask_attention(op, batch, max(context, _SHORTEST_CONTEXT))
        return ms, self._is_row(lookup, head_dim, heads, batch, context) and context >= _SHORTEST_CONTEXT

    def verify_attention(
        self, heads: int, kv_heads: int, head_dim: int, batch: int, query_tokens: int, context: int
    ) -> Answer:
        """`query_tokens` in each sequence: in no table, so taken from decode attention.

        Flash attention packs a group's query heads and query tokens into one tile, so q tokens cost what q times
        the heads do. Where the tables hold no such head count, the KV heads are spread over more sequences:
        attention(batch, heads, kv) = attention(d batch, heads / d, kv / d), which holds to 1.5 % (median).
        """
        if query_tokens == 1:
            return self.decode_attention(heads, kv_heads, head_dim, batch, context)
        packed = heads * query_tokens
        known = set(self._decode)
        spread = next(
            d
            for d in range(1, kv_heads + 1)
            if kv_heads % d == 0 and kv_heads // d in known and (packed // d <= _PACKED_HEADS_MAX or d == kv_heads)
        )
        ms, _ = self.decode_attention(packed // spread, kv_heads // spread, head_dim, batch * spread, context)
        return ms, False

    def prefill_attention(
        self, heads: int, kv_heads: int, head_dim: int, batch: int, query_tokens: int, cached: int
    ) -> Answer:
        """`query_tokens` new tokens in each sequence, causal, after `cached` earlier ones."""
        op = self._operations.ContextAttention(
            "attention",
            1,
            heads,
            kv_heads,
            self._common.KVCacheQuantMode.bfloat16,
            self._common.FMHAQuantMode.bfloat16,
            head_size=head_dim,
        )
        return self._ask_attention(op, batch, query_tokens, cached=cached, is_context=True), False

    def custom_all_reduce(self, hidden_size: int, tensor_parallel: int, tokens: int) -> Answer:
        """The serving framework's own all-reduce of a (tokens, hidden_size) bf16 tensor."""
        op = self._operations.CustomAllReduce("all_reduce", 1, hidden_size, tensor_parallel)
        sizes = self._database._custom_allreduce_data[self._common.CommQuantMode.half][tensor_parallel]["AUTO"]
        return self._ask(op, batch=tokens, s=1, x=tokens), hidden_size * tokens in sizes

    def nccl_all_reduce(self, hidden_size: int, tensor_parallel: int, tokens: int) -> Answer:
        """NCCL's all-reduce of the same tensor."""
        half = self._common.CommQuantMode.half
        op = self._operations.NCCL("all_reduce", 1, "all_reduce", hidden_size, tensor_parallel, half)
        sizes = self._database._nccl_data[half]["all_reduce"][tensor_parallel]
        return self._ask(op, batch=tokens, s=1, x=tokens), hidden_size * tokens in sizes

    def elementwise(self, width_in: int, width_out: int, tokens: int) -> Answer:
        """The package's formula for one element-wise kernel: 3 us and its bytes over 0.8 of the bandwidth."""
        op = self._operations.ElementWise("elementwise", 1, width_in, width_out, 0.8)
        return self._ask(op, batch=tokens, s=1, x=tokens), False

    def embedding(self, vocab_size: int, hidden_size: int, tokens: int) -> Answer:
        """The package's formula for looking up `tokens` rows."""
        op = self._operations.Embedding("embedding", 1, vocab_size, hidden_size, 0.3)
        return self._ask(op, batch=tokens, s=1, x=tokens), False

    def _is_row(self, kv_heads: int, head_dim: int, heads: int, batch: int, context: int) -> bool:
        level: Any = self._decode
        for key in (kv_heads, head_dim, 0, heads, batch, context):
            if key not in level:
                return False
            level = level[key]
        return True

    def _ask_attention(self, op: Any, batch: int, s: int, *, cached: int = 0, is_context: bool = False) -> float:
        # Which kernel's rows apply is resolved against the loaded tables; without it a default is used.
        self._engine_module._resolve_attention_lane_orders([op], self._database, None)
        return self._ask(op, batch=batch, s=s, cached=cached, is_context=is_context)

    def _ask(
        self,
        op: Any,
        *,
        batch: int,
        s: int,
        x: int | None = None,
        cached: int = 0,
        is_context: bool = False,
    ) -> float:
        question = self._engine_module.build_ops_json([op])
        [answer] = self._engine.evaluate_ops_json(
            question, is_context=is_context, batch_size=batch, s=s, prefix=cached, x=x
        )
        return float(answer[1])
