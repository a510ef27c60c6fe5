"""Which axes of a sweep are choices, and which are conditions that nobody chooses when deploying."""

from __future__ import annotations

from dataclasses import dataclass

from hispec_sim.scenario.yaml_source import Key
from hispec_sim.sweep.load import Sweep
from hispec_sim.sweep.references import references

_LOAD: tuple[Key, ...] = (("workload", "concurrency"), ("workload", "requests"))


@dataclass(frozen=True, slots=True)
class Conditions:
    """Columns of a sweep's table. `fixed` hold for a deployment; `load` may be chosen where latency is limited."""

    fixed: tuple[str, ...]
    load: tuple[str, ...]


def conditions_of(sweep: Sweep) -> Conditions:
    """What a policy's levels and bonus rule name is chosen; all else (GPUs, texts, assumed numbers) is given."""
    places: dict[str, set[Key]] = {axis.name: set() for axis in sweep.axes}
    for (key, name), _ in references(sweep.source.data, ()).items():
        if name in places:
            places[name].add(key)
    for axis in sweep.axes:
        if axis.key is not None:
            places[axis.name].add(axis.key)
    given = {name: keys for name, keys in places.items() if not all(map(_chosen, keys))}
    load = tuple(name for name, keys in given.items() if all(key in _LOAD for key in keys))
    fixed = tuple(name for name in given if name not in load)
    return Conditions((*fixed, "prompt_tokens", "output_tokens"), (*load, "concurrency"))


def _chosen(key: Key) -> bool:
    return key[0] == "policies" and key[2] in ("levels", "bonus")
