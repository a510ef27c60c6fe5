"""The timeline of one request: its first forwards, a lane per level, with what each verification accepted."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hispec_sim.report.figures import COLOURS, GREY, STYLE
from hispec_sim.report.sweep_figures import Picture

MAX_FORWARDS = 60


def timeline(steps: pd.DataFrame, policy: str, levels: Sequence[str], number: int = 0) -> Picture:
    """The first request of a policy; `steps` is the steps table, `levels` are their names, draft first."""
    mine = steps[(steps["policy"] == policy) & (steps["request"] == steps["request"].min())]
    rows = mine.sort_values("forward").head(MAX_FORWARDS).to_dict("records")
    name = f"timeline_{number}"
    tips: dict[str, str] = {}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 1.3 + 0.5 * len(levels)), layout="constrained")
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            level, verifies = int(row["level"]), row["run"] > 0
            target = level == len(levels) - 1
            box = Rectangle(
                (row["start_ms"], level - 0.35), row["duration_ms"], 0.7, edgecolor="white", linewidth=0.5,
                facecolor=GREY if target else COLOURS[level],
            )  # fmt: skip
            box.set_gid(f"{name}_{place}")
            tips[f"{name}_{place}"] = _tip(row)
            axes.add_patch(box)
            if verifies and not pd.isna(row["matched"]):
                middle = row["start_ms"] + row["duration_ms"] / 2
                axes.text(
                    middle, level, f"{int(row['matched'])}/{int(row['run'])}", ha="center", va="center", fontsize=7
                )
        end = max(row["start_ms"] + row["duration_ms"] for row in rows)
        axes.set_xlim(rows[0]["start_ms"], end)
        axes.set_ylim(-0.5, len(levels) - 0.5)
        axes.set_yticks(range(len(levels)), [_role(k, len(levels)) + "\n" + given for k, given in enumerate(levels)])
        axes.set_xlabel("simulated ms (in a verification: accepted of verified tokens)")
    return Picture(name, f"{policy}: the first {len(rows)} forwards of one request", figure, tips)


def _role(k: int, n_levels: int) -> str:
    return "target" if k == n_levels - 1 else "draft" if k == 0 else "early verifier"


def _tip(row: dict[str, object]) -> str:
    lines = [
        f"{row['network']}, layers ({row['first_layer']}, {row['last_layer']}], {row['tokens']} tokens",
        f"{row['duration_ms']:.3g} ms from {row['start_ms']:.4g} ms, batch of {row['batch']}",
    ]
    if not pd.isna(row["matched"]):  # type: ignore[call-overload]
        lines.append(f"verified {row['run']}, accepted {row['matched']:.0f}")
    if row["committed"]:
        lines.append(f"committed {row['committed']} tokens")
    return "\n".join(lines)
