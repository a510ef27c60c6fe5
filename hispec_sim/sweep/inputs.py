"""The uncertain inputs of a comparison, and what a configuration is when one of them has another value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hispec_sim.simulate.configuration import Configuration
from hispec_sim.simulate.pricing import ForwardCost
from hispec_sim.spread import Spread
from hispec_sim.sweep.acceptance_inputs import acceptances, ranged_uses
from hispec_sim.sweep.candidate import Candidate
from hispec_sim.sweep.uncertain import Change, Input

TIME_SCALES = (0.5, 2.0)
HOST_MS = 1.0
"""An eager decoding loop spends about so much between two forwards, a compiled one a tenth or two of it."""
JITTER_P90 = 1.5


@dataclass(frozen=True, slots=True)
class ScaledCost:
    """A network's prices times `scale`: all of them, or only those of verifications (several rows of logits)."""

    cost: ForwardCost
    scale: float
    verifications_only: bool = False

    @property
    def pads(self) -> bool:
        """Whether ragged batches are padded."""
        return self.cost.pads

    def forward_ms(self, *, batch: int, logits: int, **forward: Any) -> NDArray[np.float64]:
        """As `NetworkCost.forward_ms`, scaled."""
        ms = self.cost.forward_ms(batch=batch, logits=logits, **forward)
        return ms if self.verifications_only and logits <= batch else self.scale * ms


def inputs_of(candidates: Sequence[Candidate]) -> Iterator[Input]:
    """Every input that at least one candidate depends on. Where several have one policy, the first names its values."""
    yield from _parameters(candidates)
    yield from acceptances(candidates)
    if not any(key[:2] == ("device", "host") for candidate in candidates for key in ranged_uses(candidate)):
        value = candidates[0].loaded.scenario.device.host.per_forward_ms
        high = max(HOST_MS, 4 * value)
        source = "from none to an eager decoding loop's"
        yield Input("host overhead per forward", "ms", value, 0.0, high, source, _with_host)
    networks = sorted({level.network for c in candidates for level in c.loaded.scenario.policies[0].levels})
    low, high = TIME_SCALES
    source = "half to twice the profile"
    for network in networks if len(networks) > 1 else []:  # all times alike change no ratio
        yield Input(f"times of {network}", "x profile", 1.0, low, high, source, _scaled(network))
    yield Input("times of verifications", "x profile", 1.0, low, high, source, _scaled_verifications)
    jitter = candidates[0].configuration().jitter or {}
    p90 = max((spread.p90 for spread in jitter.values() if spread), default=1.0)
    source = "from none to half as long again; the 10 % quantile as far below the median"
    yield Input("jitter, 90 % quantile", "x median", p90, 1.0, max(JITTER_P90, p90), source, _with_jitter)


def _parameters(candidates: Sequence[Candidate]) -> Iterator[Input]:
    known = {
        name: candidate.loaded.scenario.parameters[name]
        for candidate in candidates
        for name in ranged_uses(candidate).values()
    }
    for name, parameter in known.items():
        assert parameter.range is not None

        def change(candidate: Candidate, value: float, name: str = name) -> Configuration | None:
            if name not in ranged_uses(candidate).values():
                return None
            return replace(candidate, loaded=candidate.loaded.with_parameter(name, value)).configuration()

        low, high = parameter.range
        yield Input(name, "", parameter.value, low, high, parameter.source, change)


def _with_host(candidate: Candidate, per_forward_ms: float) -> Configuration:
    scenario = candidate.loaded.scenario
    host = scenario.device.host.model_copy(update={"per_forward_ms": per_forward_ms})
    device = scenario.device.model_copy(update={"host": host})
    loaded = replace(candidate.loaded, scenario=scenario.model_copy(update={"device": device}))
    return replace(candidate, loaded=loaded).configuration()


def _scaled(network: str) -> Change:
    def change(candidate: Candidate, scale: float) -> Configuration | None:
        configuration = candidate.configuration()
        if network not in configuration.costs:
            return None
        costs: Mapping[str, ForwardCost] = configuration.costs
        return replace(
            configuration,
            costs={name: ScaledCost(cost, scale) if name == network else cost for name, cost in costs.items()},
        )

    return change


def _scaled_verifications(candidate: Candidate, scale: float) -> Configuration | None:
    configuration = candidate.configuration()
    if configuration.cascade.target == 0:
        return None
    costs = {name: ScaledCost(cost, scale, verifications_only=True) for name, cost in configuration.costs.items()}
    return replace(configuration, costs=costs)


def _with_jitter(candidate: Candidate, p90: float) -> Configuration:
    configuration = candidate.configuration()
    spread = None if p90 == 1 else Spread(1 / p90, p90)
    return replace(configuration, jitter=dict.fromkeys(configuration.costs, spread))
