"""The run on a time axis, in Chrome's trace-event format: open the file at https://ui.perfetto.dev or chrome://tracing.

One process per policy, one track per level; a slice is one device forward.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

MAX_FORWARDS = 2000
"""Forwards drawn per policy; the steps table has them all."""


def chrome_trace(steps: pd.DataFrame, levels: dict[str, list[str]]) -> dict[str, Any]:
    """Trace events of the first `MAX_FORWARDS` forwards of each policy.

    `steps` is the steps table; `levels` names each policy's levels, draft first.
    """
    events: list[dict[str, Any]] = []
    for pid, (policy, names) in enumerate(levels.items(), start=1):
        events.append({"ph": "M", "pid": pid, "name": "process_name", "args": {"name": policy}})
        events.append({"ph": "M", "pid": pid, "name": "process_sort_index", "args": {"sort_index": pid}})
        for tid, name in enumerate(names):
            role = "target" if tid == len(names) - 1 else "draft" if tid == 0 else "verifier"
            events.append(
                {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": f"{tid} {role} {name}"}}
            )
            events.append({"ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}})
        rows = steps[(steps["policy"] == policy) & (steps["forward"] < MAX_FORWARDS)]
        for _, members in rows.groupby("forward", sort=True):
            events.append(_slice(pid, members))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _slice(pid: int, members: pd.DataFrame) -> dict[str, Any]:
    first = members.iloc[0]
    verifies = first["run"] > 0
    span = f"({first['first_layer']}, {first['last_layer']}]"
    return {
        "ph": "X",
        "pid": pid,
        "tid": int(first["level"]),
        "name": f"verify {first['run']}" if verifies else "decode" if first["committed"] else "draft",
        "cat": "verify" if verifies else "draft",
        "ts": round(1000 * float(first["start_ms"]), 3),
        "dur": round(1000 * float(first["duration_ms"]), 3),
        "args": {
            "network": str(first["network"]),
            "layers": span,
            "requests": [int(index) for index in members["request"]],
            "tokens": int(members["tokens"].sum()),
            "matched": [None if pd.isna(matched) else int(matched) for matched in members["matched"]],
            "committed": int(members["committed"].sum()),
        },
    }
