"""A recommendation as vLLM's `--speculative-config`, where vLLM can serve it.

vLLM speculates with one separate draft model (method `draft_model`); it has neither exits of the target nor
intermediate verifiers. Key names as in vLLM's page "Draft Models" and its SpeculativeConfig, v0.20 to v0.26.
"""

from __future__ import annotations

from typing import Any

from hispec_sim.scenario.build import build_costs
from hispec_sim.sweep.candidate import Candidate


def speculative_config(candidate: Candidate) -> dict[str, Any] | None:
    """The configuration, or None where vLLM cannot serve the candidate. `model` is the scenario's network name.

    vLLM runs the draft at the target's tensor parallelism.
    """
    scenario = candidate.loaded.scenario
    policy = scenario.policies[0]
    if len(policy.levels) != 2:
        return None
    draft, target = policy.levels
    costs = build_costs(candidate.loaded)
    whole = draft.exit_layer in (None, costs[draft.network].profile.network.n_layers) and draft.shortlist is None
    parallel = [scenario.networks[level.network].tensor_parallel for level in policy.levels]
    if draft.network == target.network or not whole or parallel[0] != parallel[1]:
        return None
    return {"method": "draft_model", "model": draft.network, "num_speculative_tokens": draft.draft_length}
