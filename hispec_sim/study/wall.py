"""The verification wall: how many draft tokens one target pass costs, over run length and tensor parallelism."""

from __future__ import annotations

from dataclasses import dataclass

from hispec_sim.latency.cost import NetworkCost
from hispec_sim.scenario.build import load_profiles, network_cost
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.scenario.yaml_source import did_you_mean

RUN_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16)


@dataclass(frozen=True, slots=True)
class WallPoint:
    """Target verifying `tokens` tokens against the draft network decoding one, both at `tensor_parallel`."""

    tensor_parallel: int
    tokens: int
    verify_ms: float
    draft_ms: float

    @property
    def ratio(self) -> float:
        """Draft tokens that could be made in the time of one verification."""
        return self.verify_ms / self.draft_ms


def verification_wall(loaded: LoadedScenario) -> list[WallPoint]:
    """The points of the wall at the workload's first context, or none if the scenario has no `wall`."""
    scenario = loaded.scenario
    if scenario.wall is None:
        return []
    draft_name, target_name = scenario.wall.draft, scenario.policies[0].levels[-1].network
    if draft_name not in scenario.networks:
        hint = did_you_mean(draft_name, scenario.networks)
        raise loaded.fail(("wall", "draft"), f"{draft_name!r} is not among `networks`{hint}")
    profiles = load_profiles(loaded)
    points = []
    for tensor_parallel in scenario.wall.tensor_parallel:
        if any(tensor_parallel not in profiles[name].tensor_parallels for name in (draft_name, target_name)):
            continue
        target, draft = (network_cost(loaded, profiles[name], tensor_parallel) for name in (target_name, draft_name))
        draft_ms = _full_forward_ms(draft, 1, scenario.workload.prompt_tokens)
        for tokens in RUN_LENGTHS:
            verify_ms = _full_forward_ms(target, tokens, scenario.workload.prompt_tokens)
            points.append(WallPoint(tensor_parallel, tokens, verify_ms, draft_ms))
    return points


def _full_forward_ms(cost: NetworkCost, tokens: int, context: int) -> float:
    return float(
        cost.forward_ms(
            first_layer=0,
            last_layer=cost.profile.network.n_layers,
            batch=1,
            tokens=tokens,
            logits=tokens,
            context=context,
        )
    )
