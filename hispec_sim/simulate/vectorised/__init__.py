"""Many configurations at once, without events: the figures of the SimPy engine, in a fraction of its time."""

from hispec_sim.simulate.configuration import Configuration
from hispec_sim.simulate.vectorised.evaluator import evaluate, supports

__all__ = ["Configuration", "evaluate", "supports"]
