"""The map as one plain table: who wins at every pair of agreements, panel by panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from hispec_sim.hierarchy.agreement import agreement
from hispec_sim.hierarchy.prices import Prices, Ratios, as_ratios
from hispec_sim.hierarchy.tuned import KINDS, compare

ODDS_RATIO = 6.0
"""That of the reference network's pairs of exits (4.7 to 7.7 on greedy text)."""
COSTS = ((0.05, 0.25), (0.125, 0.25), (0.125, 0.5), (0.25, 0.5))
SLOPES = (0.0, 0.02, 0.05)
READ_OUT = 0.02
"""Those of the H100 networks are .002 to .06, that of the reference network on a processor .05."""
CELLS = 50


def general_panels() -> dict[str, Prices]:
    """Every pair of cost ratios with every verify slope."""
    return {
        f"draft {draft:g}, middle {middle:g}, verify slope {slope:g}": Ratios(draft, middle, slope, READ_OUT)
        for slope in SLOPES
        for draft, middle in COSTS
    }


def map_table(
    panels: Mapping[str, Prices],
    odds_ratio: float = ODDS_RATIO,
    cells: int = CELLS,
    tick: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """A row per cell of every panel where the middle exit agrees at least as often as the draft; `tick` after each
    panel."""
    centres = (np.arange(cells) + 0.5) / cells
    drafts, middles = (each.ravel() for each in np.meshgrid(centres, centres))
    kept = drafts <= middles
    levels = agreement(drafts[kept], middles[kept], odds_ratio)
    tables = []
    for name, prices in panels.items():
        found, ratios = compare(levels, prices), as_ratios(prices)
        tables.append(
            pd.DataFrame(
                {
                    "panel": name,
                    "draft_cost": ratios.draft,
                    "middle_cost": ratios.middle,
                    "read_out_cost": ratios.read_out,
                    "verify_slope": ratios.verify_slope,
                    "draft": levels.draft,
                    "middle": levels.middle,
                    "winner": [KINDS[kind] for kind in found.winner],
                    "single_speedup": found.single_speedup,
                    "hispec_speedup": found.hispec_speedup,
                    "gain": found.gain,
                    "single": [str(found.single.ways[way]) for way in found.single.way],
                    "hispec": [str(found.hispec.ways[way]) for way in found.hispec.way],
                }
            )
        )
        tick()
    return pd.concat(tables, ignore_index=True)
