"""Latency profiles and what follows from them: pure data, numpy only."""

from hispec_sim.latency.cost import HostOverhead, NetworkCost
from hispec_sim.latency.interpolation import leave_one_out
from hispec_sim.latency.profile import LatencyProfile, Provenance
from hispec_sim.latency.profile_file import read_profile, write_profile
from hispec_sim.latency.profile_row import ProfileRow

__all__ = [
    "HostOverhead",
    "LatencyProfile",
    "NetworkCost",
    "ProfileRow",
    "Provenance",
    "leave_one_out",
    "read_profile",
    "write_profile",
]
