"""Every group of published checks, in the order in which they are printed."""

from __future__ import annotations

from hispec_sim.published.check import Group
from hispec_sim.published.depths import exit_order
from hispec_sim.published.exits import exit_curve
from hispec_sim.published.layerskip import layerskip_speedups
from hispec_sim.published.leviathan import tokens_per_round
from hispec_sim.published.middle_network import middle_network
from hispec_sim.published.speedups import speedup_ratios
from hispec_sim.published.wall import verification_wall


def all_groups() -> tuple[Group, ...]:
    """The checks of every paper."""
    return (
        verification_wall(),
        speedup_ratios(),
        exit_order(),
        exit_curve(),
        layerskip_speedups(),
        tokens_per_round(),
        middle_network(),
    )
