"""The panels of a figure of one or several latency profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hispec_sim.latency import LatencyProfile

if TYPE_CHECKING:
    from hispec_sim.report.profile_figures import Panel


def panels_of(profiles: Sequence[LatencyProfile], labels: Sequence[str]) -> list[Panel]:
    """One panel for each op that all profiles have; curves are told apart by `labels`, one for each profile."""
    from hispec_sim.latency.curves import profile_slices
    from hispec_sim.report.profile_figures import Curve, Panel

    of_each = [
        [replace(s, label=", ".join(filter(None, (label, s.label)))) for s in profile_slices(profile)]
        for profile, label in zip(profiles, labels, strict=True)
    ]
    panels = []
    for op in dict.fromkeys(found.op for found in of_each[0]):
        by_profile = [[found for found in slices if found.op == op] for slices in of_each]
        if not all(by_profile):
            continue
        chosen = [found for few in by_profile for found in few]
        curves = tuple(Curve(s.label, s.x, s.ms, s.measured, s.line_x, s.line_ms, s.roofline_ms) for s in chosen)
        title = op if not chosen[0].held else f"{op} ({chosen[0].held})"
        panels.append(Panel(title, chosen[0].axis, curves))
    return panels
