"""`summary.json`: the result of a run as plain data. Scripts depend on these names; VERSION counts breaking changes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

VERSION = 1


class Plain(BaseModel):
    """Data that is written as JSON: no key more or less than is declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Interval(Plain):
    """A figure over the repetitions of a run."""

    median: float
    low: float
    """2.5 % quantile over repetitions."""
    high: float
    """97.5 % quantile over repetitions."""


class PolicySummary(Plain):
    """One policy. Levels are named `network@exit_layer`, from the drafting level to the target."""

    name: str
    levels: list[str]
    tokens_per_s: Interval
    """Committed tokens of all sequences per second of simulated time."""
    tokens_per_s_predicted: list[float] | None = None
    """95 % interval of the same with the errors of the trace and of the profiles; null where these tell none."""
    tpot_ms: Interval
    """Milliseconds per output token of one sequence, mean over requests."""
    speedup_vs_autoregressive: float
    """Ratio of median tokens_per_s to the autoregressive policy's."""
    speedup_vs_best_single_layer: float | None
    """The same against the fastest policy of two levels; null if there is none."""
    tokens_per_target_pass: float
    """Committed tokens per target verification of one sequence (mean accepted length)."""
    tokens_per_target_pass_predicted: list[float] | None = None
    """95 % interval of the same with the error of the trace; null where acceptance is assumed."""
    matched_per_drafted: dict[str, float]
    """Per verifying level: share of the tokens it verified that it accepted."""
    time_share: dict[str, float]
    """Per level: share of device time that its steps took; sums to 1."""
    forwards_per_round: dict[str, float]
    """Per level: forwards of one sequence between two target verifications."""


class ParameterSummary(Plain):
    """A named number of the scenario, its source, and what its range does."""

    name: str
    value: float
    source: str
    range: list[float] | None


class SensitivityPoint(Plain):
    """One parameter at one end of its range."""

    parameter: str
    value: float
    best_policy: str
    speedup_vs_autoregressive: dict[str, float]
    """Per policy."""


class InterpolationError(Plain):
    """Leave-one-out error of a profile's interpolation: each grid point predicted from its neighbours."""

    op: str
    median: float
    p95: float
    points: int


class NetworkSummary(Plain):
    """Where a network's latency comes from."""

    name: str
    tensor_parallel: int
    profile: str
    """File, or `roofline`."""
    provenance: dict[str, Any]
    interpolation_error: list[InterpolationError]


class Summary(Plain):
    """Everything that a run reports in numbers."""

    format: str = "hispec-summary"
    version: int = VERSION
    scenario_name: str
    description: str
    seed: int
    repetitions: int
    policies: list[PolicySummary]
    parameters: list[ParameterSummary]
    sensitivity: list[SensitivityPoint]
    networks: list[NetworkSummary]
    notes: list[str]
    """What a reader must know: extrapolation, interruptions, what is not simulated."""
    versions: dict[str, str]
    """Of the program and of the libraries that the result depends on."""
    scenario: dict[str, Any]
    """The resolved scenario: defaults filled in, --set applied, $names replaced."""
