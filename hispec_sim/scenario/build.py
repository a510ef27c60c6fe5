"""From a checked scenario to what the engine runs on: costs, cascades, acceptance. Errors point into the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from hispec_sim.acceptance.models import AcceptanceModel
from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.sampler import FateTable, ModelSampler, Sampler
from hispec_sim.acceptance.trace import AgreementTrace
from hispec_sim.acceptance.trace_file import load_trace
from hispec_sim.cascade import Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.latency.cost import HostOverhead, NetworkCost
from hispec_sim.latency.devices import known_devices
from hispec_sim.latency.profile import LatencyProfile
from hispec_sim.latency.profile_file import read_profile
from hispec_sim.latency.roofline import roofline_profile
from hispec_sim.networks import NetworkSpec, known_networks
from hispec_sim.scenario.acceptance import build_model
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.scenario.schema import IndependentSpec, Policy, TraceSpec
from hispec_sim.scenario.yaml_source import Key, did_you_mean

Known = TypeVar("Known")
SamplerFactory = Callable[[int, np.random.Generator], Sampler]


@dataclass(frozen=True, slots=True)
class BuiltPolicy:
    """A policy ready to run: its cascade, a sampler per request, how long requests are, and what outcomes come from."""

    name: str
    cascade: Cascade
    new_sampler: SamplerFactory
    output_tokens: Callable[[int], int]
    outcomes: AcceptanceModel | ReplaySource


def build_costs(loaded: LoadedScenario) -> dict[str, NetworkCost]:
    """The price list of every network. Raises InputError."""
    costs = {}
    for name, profile in load_profiles(loaded).items():
        try:
            costs[name] = network_cost(loaded, profile, loaded.scenario.networks[name].tensor_parallel)
        except InputError as error:
            raise loaded.fail(("networks", name), str(error)) from None
    return costs


def network_cost(loaded: LoadedScenario, profile: LatencyProfile, tensor_parallel: int) -> NetworkCost:
    """The price list of one network on the scenario's device. Raises InputError."""
    device = loaded.scenario.device
    return NetworkCost(
        profile,
        tensor_parallel=tensor_parallel,
        all_reduce=device.all_reduce,
        host=HostOverhead(device.host.per_forward_ms, device.host.per_layer_ms),
        elementwise_scale=device.elementwise_scale,
        allow_extrapolation=device.allow_extrapolation,
    )


def load_profiles(loaded: LoadedScenario) -> dict[str, LatencyProfile]:
    """The latency profile of every network, read or computed. Raises InputError, also if they are of several devices
    and the scenario does not allow that."""
    profiles = {}
    for name, network in loaded.scenario.networks.items():
        key: Key = ("networks", name)
        try:
            if network.profile is not None:
                profiles[name] = _profile(loaded.folder / network.profile)
            else:
                assert network.roofline is not None
                profiles[name] = _roofline(network.roofline.network, network.roofline.device)
        except InputError as error:
            raise loaded.fail(key, str(error)) from None
    _check_one_device(loaded, profiles)
    return profiles


def _check_one_device(loaded: LoadedScenario, profiles: Mapping[str, LatencyProfile]) -> None:
    """Networks take turns on one device: a draft's time on another one tells nothing of what it costs on this."""
    devices = {name: profile.device for name, profile in profiles.items()}
    if loaded.scenario.device.allow_mixed_devices or len(set(devices.values())) == 1:
        return
    told = ", ".join(f"{name} on {device}" for name, device in devices.items())
    raise loaded.fail(
        ("networks",),
        f"all networks share one device, but these latencies are of several: {told}; give profiles or rooflines of "
        "one device, or set device.allow_mixed_devices to true to take them for those of one",
    )


def build_policies(loaded: LoadedScenario, n_layers: Mapping[str, int]) -> list[BuiltPolicy]:
    """All policies, each checked against the networks' depths. Raises InputError."""
    policies = [build_policy(loaded, index, n_layers) for index in range(len(loaded.scenario.policies))]
    targets = {policy.cascade.levels[-1].network for policy in policies}
    if len(targets) > 1:
        raise loaded.fail(
            ("policies",), f"all policies must have one target; these end in {', '.join(sorted(targets))}"
        )
    autoregressive = [policy.name for policy in policies if policy.cascade.target == 0]
    if len(autoregressive) != 1:
        raise loaded.fail(
            ("policies",),
            "exactly one policy must be autoregressive (a single level, the target): speedups are measured against it; "
            f"found {len(autoregressive)}",
        )
    return policies


def build_policy(loaded: LoadedScenario, index: int, n_layers: Mapping[str, int]) -> BuiltPolicy:
    """One policy, checked against the networks' depths. Raises InputError."""
    policy, key = loaded.scenario.policies[index], ("policies", index)
    levels = []
    for k, spec in enumerate(policy.levels):
        place: Key = (*key, "levels", k)
        if spec.network not in n_layers:
            hint = did_you_mean(spec.network, n_layers)
            raise loaded.fail((*place, "network"), f"{spec.network!r} is not among `networks`{hint}")
        depth = n_layers[spec.network]
        exit_layer = spec.exit_layer if spec.exit_layer is not None else depth
        if exit_layer > depth:
            raise loaded.fail(
                (*place, "exit_layer"), f"{spec.network} has {depth} layers, so {exit_layer} is beyond it"
            )
        levels.append(Level(spec.network, exit_layer, _verify_period(loaded, policy, k, place), spec.shortlist))
    last = levels[-1]
    if last.exit_layer != n_layers[last.network]:
        raise loaded.fail(
            (*key, "levels", len(levels) - 1),
            f"the last level is the target and runs all {n_layers[last.network]} layers of {last.network}, "
            f"not {last.exit_layer}; leave its exit_layer out",
        )
    try:
        cascade = Cascade(tuple(levels), policy.bonus_rule)
    except InputError as error:
        raise loaded.fail((*key, "levels"), str(error)) from None
    for k, level in enumerate(levels):
        if level.shortlist is None:
            continue
        vocab_size = _shapes(loaded, cascade)[level.network].vocab_size
        if level.shortlist > vocab_size:
            raise loaded.fail(
                (*key, "levels", k, "shortlist"),
                f"{level.network} has a vocabulary of {vocab_size} tokens, so a shortlist of {level.shortlist} is no "
                "part of it; give fewer, or leave it out",
            )
    return _with_acceptance(loaded, policy, key, cascade, n_layers)


def _verify_period(loaded: LoadedScenario, policy: Policy, k: int, place: Key) -> int:
    """The period of level k: the draft length for level 1, its own verify_period above."""
    spec, last = policy.levels[k], len(policy.levels) - 1
    if spec.draft_length is not None and (k > 0 or last == 0):
        raise loaded.fail((*place, "draft_length"), "only level 0 of a cascade drafts; give `verify_period` here")
    if k == 0 and last > 0 and spec.draft_length is None:
        raise loaded.fail(place, "level 0 needs `draft_length`, the tokens it drafts before level 1 verifies (Nd)")
    if spec.verify_period is not None and k < 2:
        what = "drafts" if k == 0 else "verifies after every draft of `draft_length` tokens"
        raise loaded.fail((*place, "verify_period"), f"level {k} {what}; verify_period belongs to level 2 and above")
    if k == 0:
        return 0
    if k == 1:
        assert policy.levels[0].draft_length is not None
        return policy.levels[0].draft_length
    if spec.verify_period is None:
        raise loaded.fail(place, f"level {k} needs `verify_period`, the tokens that level {k - 1} gathers for it (Ni)")
    return spec.verify_period


def _with_acceptance(
    loaded: LoadedScenario, policy: Policy, key: Key, cascade: Cascade, n_layers: Mapping[str, int]
) -> BuiltPolicy:
    spec, place = policy.acceptance, (*key, "acceptance")
    length = loaded.scenario.workload.output_tokens
    if spec is None:
        if cascade.target > 0:
            raise loaded.fail(key, f"policy {policy.name!r} has {cascade.target + 1} levels and needs `acceptance`")
        spec = IndependentSpec.model_construct(model="independent", accept=[], clustering=0.0)
    elif cascade.target == 0:
        raise loaded.fail(place, "an autoregressive policy accepts nothing; remove `acceptance`")
    if isinstance(spec, TraceSpec):
        try:
            replay = ReplaySource(_trace(loaded.folder / spec.trace), cascade, _shapes(loaded, cascade))
        except InputError as error:
            raise loaded.fail((*place, "trace"), str(error)) from None
        return BuiltPolicy(
            policy.name, cascade, replay.sampler, lambda index: min(length, replay.output_tokens(index)), replay
        )
    model = build_model(loaded, spec, cascade, n_layers, place)
    table = FateTable(model)
    return BuiltPolicy(policy.name, cascade, lambda _, rng: ModelSampler(table, rng), lambda _: length, model)


def _shapes(loaded: LoadedScenario, cascade: Cascade) -> dict[str, NetworkSpec]:
    """The cascade's networks, as their latency describes them."""
    shapes = {}
    for name in {level.network for level in cascade.levels}:
        network = loaded.scenario.networks[name]
        if network.profile is not None:
            shapes[name] = _profile(loaded.folder / network.profile).network
        else:
            assert network.roofline is not None
            shapes[name] = _known(known_networks(), network.roofline.network, "network")
    return shapes


def _known(table: dict[str, Known], name: str, what: str) -> Known:
    if name not in table:
        raise InputError(f"there is no known {what} {name!r}{did_you_mean(name, table)}")
    return table[name]


@cache
def _profile(path: Path) -> LatencyProfile:
    return read_profile(path)


@cache
def _roofline(network: str, device: str) -> LatencyProfile:
    return roofline_profile(_known(known_networks(), network, "network"), _known(known_devices(), device, "device"))


@cache
def _trace(path: Path) -> AgreementTrace:
    return load_trace(path)
