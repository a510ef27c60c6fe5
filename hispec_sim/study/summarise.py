"""From runs to the plain summary and tables that are written and drawn."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

import numpy as np
import pandas as pd

import hispec_sim
from hispec_sim.cascade import Level
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.latency.interpolation import leave_one_out
from hispec_sim.report.summary import (
    InterpolationError,
    Interval,
    NetworkSummary,
    ParameterSummary,
    PolicySummary,
    SensitivityPoint,
    Summary,
)
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.simulate.metrics import member_forward
from hispec_sim.study.run import PolicyRuns
from hispec_sim.study.sensitivity import Variation
from hispec_sim.study.uncertainty import predicted_intervals
from hispec_sim.study.wall import WallPoint

LIBRARIES = ("numpy", "pandas", "pydantic", "simpy")


def label(level: Level) -> str:
    """`network@exit_layer`, and `/shortlist` where the level has one."""
    shortlist = "" if level.shortlist is None else f"/{level.shortlist}"
    return f"{level.network}@{level.exit_layer}{shortlist}"


def summarise(
    loaded: LoadedScenario,
    runs: Sequence[PolicyRuns],
    variations: Sequence[Variation],
    costs: dict[str, NetworkCost],
    notes: Sequence[str],
) -> Summary:
    """The summary of the policies that ran."""
    scenario = loaded.scenario
    speed = {run.policy.name: run.median("tokens_per_s") for run in runs}
    autoregressive = next(run.policy.name for run in runs if run.policy.cascade.target == 0)
    single_layer = [speed[run.policy.name] for run in runs if run.policy.cascade.target == 1]
    extrapolated = [f"extrapolated: {note}" for cost in costs.values() for note in cost.extrapolated]
    return Summary(
        scenario_name=scenario.name,
        description=scenario.description,
        seed=scenario.seed,
        repetitions=scenario.repetitions,
        policies=[_policy(run, costs, speed[autoregressive], max(single_layer, default=None)) for run in runs],
        parameters=[
            ParameterSummary(name=name, **parameter.model_dump()) for name, parameter in scenario.parameters.items()
        ],
        sensitivity=[
            SensitivityPoint(
                parameter=variation.parameter,
                value=variation.value,
                best_policy=variation.best,
                speedup_vs_autoregressive={
                    name: tokens_per_s / variation.tokens_per_s[autoregressive]
                    for name, tokens_per_s in variation.tokens_per_s.items()
                },
            )
            for variation in variations
        ],
        networks=[_network(loaded, name, cost) for name, cost in costs.items()],
        notes=[*notes, *extrapolated],
        versions={
            "hispec_sim": hispec_sim.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        scenario=scenario.model_dump(mode="json"),
    )


def requests_table(runs: Sequence[PolicyRuns]) -> pd.DataFrame:
    """One row per request of every policy's first repetition."""
    rows = [
        {
            "policy": run.policy.name,
            "request": request.index,
            "prompt_tokens": request.prompt_tokens,
            "output_tokens": request.output_tokens,
            "start_ms": request.start_ms,
            "end_ms": request.end_ms,
            "tpot_ms": (request.end_ms - request.start_ms) / request.output_tokens,
        }
        for run in runs
        for request in sorted(run.log.requests, key=lambda request: request.index)
    ]
    return pd.DataFrame(rows)


def steps_table(runs: Sequence[PolicyRuns]) -> pd.DataFrame:
    """One row per (device forward, request in its batch) of every policy's first repetition.

    `matched` is empty where the forward did not complete a verification.
    """
    return pd.concat([_steps(run) for run in runs], ignore_index=True)


def wall_table(points: Sequence[WallPoint]) -> pd.DataFrame:
    """The verification wall, one row per point."""
    columns = ["tensor_parallel", "tokens", "verify_ms", "draft_ms", "ratio"]
    return pd.DataFrame([{**asdict(point), "ratio": point.ratio} for point in points], columns=columns)


def _policy(
    run: PolicyRuns, costs: dict[str, NetworkCost], autoregressive: float, best_single_layer: float | None
) -> PolicySummary:
    labels = [label(level) for level in run.policy.cascade.levels]
    speed = run.median("tokens_per_s")
    predicted = {name: list(ends) for name, ends in predicted_intervals(run, costs).items()}

    def per_level(name: str) -> dict[str, float]:
        figures = np.array([getattr(metrics, name) for metrics in run.metrics])
        verified = ~np.isnan(figures).all(axis=0)
        return {name: float(np.nanmedian(figures[:, k])) for k, name in enumerate(labels) if verified[k]}

    return PolicySummary(
        name=run.policy.name,
        levels=labels,
        tokens_per_s=_interval(run, "tokens_per_s"),
        tokens_per_s_predicted=predicted.get("tokens_per_s"),
        tpot_ms=_interval(run, "tpot_ms"),
        speedup_vs_autoregressive=speed / autoregressive,
        speedup_vs_best_single_layer=None if best_single_layer is None else speed / best_single_layer,
        tokens_per_target_pass=run.median("tokens_per_target_pass"),
        tokens_per_target_pass_predicted=predicted.get("tokens_per_target_pass"),
        matched_per_drafted=per_level("matched_per_drafted"),
        time_share={
            name: float(np.mean([metrics.time_share[k] for metrics in run.metrics])) for k, name in enumerate(labels)
        },
        forwards_per_round=per_level("forwards_per_round"),
    )


def _interval(run: PolicyRuns, name: str) -> Interval:
    low, median, high = np.quantile([getattr(metrics, name) for metrics in run.metrics], [0.025, 0.5, 0.975])
    return Interval(median=float(median), low=float(low), high=float(high))


def _network(loaded: LoadedScenario, name: str, cost: NetworkCost) -> NetworkSummary:
    given = loaded.scenario.networks[name].profile
    errors = leave_one_out(cost.profile) if given is not None else {}
    return NetworkSummary(
        name=name,
        tensor_parallel=cost.tensor_parallel,
        profile=given or "roofline",
        provenance=asdict(cost.profile.provenance),
        interpolation_error=[
            InterpolationError(op=op, median=error.median, p95=error.p95, points=error.n)
            for op, error in errors.items()
        ],
    )


def _steps(run: PolicyRuns) -> pd.DataFrame:
    log = run.log
    forward_of_member = np.array(member_forward(log))
    duration_ms = np.asarray(log.duration_ms)
    start_ms = np.concatenate([[0.0], np.cumsum(duration_ms)[:-1]])
    nodes = [move.source for move in log.move]
    forwards = [node.forward for node in nodes]
    matched = pd.array([move.matched if move.source.run and move.matched >= 0 else None for move in log.move], "Int64")
    return pd.DataFrame(
        {
            "policy": run.policy.name,
            "forward": forward_of_member,
            "start_ms": start_ms[forward_of_member],
            "duration_ms": duration_ms[forward_of_member],
            "batch": np.asarray(log.batch_size)[forward_of_member],
            "request": [request.index for request in log.request],
            "level": [node.level for node in nodes],
            "network": [forward.network for forward in forwards],
            "first_layer": [forward.first_layer for forward in forwards],
            "last_layer": [forward.last_layer for forward in forwards],
            "tokens": [forward.tokens for forward in forwards],
            "logits": [forward.logits for forward in forwards],
            "run": [node.run for node in nodes],
            "matched": matched,
            "committed": [move.committed for move in log.move],
        }
    )
