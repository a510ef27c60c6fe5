"""Which real points check which boundaries of the map, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hispec_sim.published.points import BOUNDARIES, Point

SAME, OTHER, CLOSE = "same side", "other side", "too close to tell"


def point_table(points: Sequence[Point], odds_ratio: float) -> pd.DataFrame:
    """A row per point and boundary that it checks: the real speedup, the map's for the ways that ran (`as_run`) and
    with both kinds tuned (`tuned`), and whether real and as_run lie on one side of 1."""
    rows = []
    for point in points:
        as_run, tuned = point.as_run(odds_ratio), point.tuned(odds_ratio)
        rows += [
            {
                "point": point.name,
                "kind": point.kind,
                "network": point.network,
                "draft": point.draft,
                "middle": point.middle,
                "boundary": boundary,
                "single": str(point.single or ""),
                "hispec": str(point.hispec or ""),
                "real": ratio.value,
                "real_low": ratio.low,
                "real_high": ratio.high,
                "as_run": as_run[boundary],
                "tuned": tuned[boundary],
                "verdict": verdict(ratio.value, ratio.low, ratio.high, as_run[boundary]),
                "source": point.source,
            }
            for boundary, ratio in point.real.items()
        ]
    return pd.DataFrame(rows)


def verdict(real: float, low: float, high: float, ours: float) -> str:
    """Whether a real speedup and the map's are on one side of 1; not told where the real one's range holds 1."""
    if low <= 1 <= high:
        return CLOSE
    return SAME if (real > 1) == (ours > 1) else OTHER


def boundary_table(points: pd.DataFrame) -> pd.DataFrame:
    """A row per boundary: real points above and below 1, verdicts, the errors of as_run, and the nearest points."""
    rows = []
    for boundary in BOUNDARIES:
        each = points[points["boundary"] == boundary]
        error = (each["as_run"] / each["real"] - 1).abs()
        above, below = each[each["real"] > 1], each[each["real"] <= 1]
        rows.append(
            {
                "boundary": boundary,
                "points": len(each),
                "above": len(above),
                "below": len(below),
                **{verdict: int((each["verdict"] == verdict).sum()) for verdict in (SAME, OTHER, CLOSE)},
                "median_error": float(error.median()),
                "p95_error": float(error.quantile(0.95)),
                "nearest_above": above["real"].min() if len(above) else np.nan,
                "nearest_below": below["real"].max() if len(below) else np.nan,
            }
        )
    return pd.DataFrame(rows)
