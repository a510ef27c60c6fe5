"""The scenario file's schema: what may be written, with which meaning and limits.

One file, one reproducible result. Unknown keys are refused everywhere. Wherever a number is expected, `$name` may
stand for an entry of `parameters`, which carries the number's source and, where it is assumed, its plausible range.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hispec_sim.cascade import Bonus
from hispec_sim.scheduler import Grouping

Probability = Annotated[float, Field(ge=0, le=1, description="A probability, 0 to 1.")]
Milliseconds = Annotated[float, Field(ge=0, le=10_000)]
Name = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@+-]*$")]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Parameter(_Strict):
    """A number with its source."""

    value: float
    """The value that the main run uses."""
    source: Annotated[str, Field(min_length=3)]
    """Paper and table, a measurement's command, or `assumed` (then give `range` and say why)."""
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """[lowest, highest] plausible value: the run repeats both ends and reports what changes."""

    @property
    def assumed(self) -> bool:
        """True when nobody has measured it."""
        return self.source.strip().lower().startswith("assumed")

    @model_validator(mode="after")
    def _range_holds_value(self) -> Parameter:
        if self.assumed and self.range is None:
            raise ValueError("an assumed parameter needs a plausible `range: [low, high]`")
        if self.range is not None and not self.range[0] <= self.value <= self.range[1]:
            raise ValueError(f"the range {self.range} must contain the value {self.value}")
        return self


class Roofline(_Strict):
    """Latency computed from bytes and FLOPs, for a device without a measured profile."""

    network: Name
    """A known architecture, for example llama-3.1-70b."""
    device: Name
    """A device with stated peaks and efficiencies, for example l40s."""


class Anchor(_Strict):
    """What is known of one exit."""

    exit_layer: Count
    """Depth of the exit."""
    accept: Annotated[float, Field(gt=0, lt=1)]
    """P(the whole network predicts what this exit predicts)."""


class ExitCurveSpec(_Strict):
    """Agreement of every exit with the whole network: a published curve's shape, led through what is known here."""

    shape: Name
    """A known curve (hispec_sim/data/exit_curves.yaml), for example codellama-34b."""
    through: Annotated[list[Anchor], Field(min_length=1)]
    """One or more exits of this network; a curve's odds are scaled to meet them."""


class Network(_Strict):
    """Where a network's latency comes from (give `profile` or `roofline`), and what acceptance `chain` needs of it."""

    profile: str | None = None
    """Latency profile, relative to this scenario file."""
    roofline: Roofline | None = None
    tensor_parallel: Count = 1
    """GPUs that share every layer."""
    target_accepts: Annotated[float, Field(gt=0, le=1)] | None = None
    """P(the target predicts what this network predicts): for a separate draft under acceptance `chain`."""
    exit_curve: ExitCurveSpec | None = None
    """How often the whole network predicts what its exits predict: for exits under acceptance `chain`."""

    @model_validator(mode="after")
    def _one_source(self) -> Network:
        if (self.profile is None) == (self.roofline is None):
            raise ValueError("give either `profile` (a file) or `roofline` (network and device)")
        return self


class Host(_Strict):
    """What the host adds to kernel time."""

    per_forward_ms: Milliseconds = 0.0
    """Added to every forward: sampling, scheduling, launching a graph."""
    per_layer_ms: Milliseconds = 0.0
    """Time to launch one layer's kernels eagerly; a layer cannot take less. 0 with CUDA graphs."""


class Jitter(_Strict):
    """Spread of a forward's time around its median, as ratios to the median."""

    p10: Annotated[float, Field(gt=0, le=1)]
    p90: Annotated[float, Field(ge=1, le=10)]


class Device(_Strict):
    """The device that all networks share, one forward at a time."""

    all_reduce: Literal["custom", "nccl"] = "custom"
    """Which measured all-reduce joins tensor-parallel GPUs."""
    host: Host = Host()
    elementwise_scale: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Multiplies the time of norms, rope, activation and additions, which imported profiles have from a formula."""
    jitter: Jitter | Literal["profile", "none"] = "profile"
    """`profile` uses the profile's own quantiles where it has them."""
    allow_extrapolation: bool = False
    """Go on outside the measured range; the results are then flagged."""
    allow_mixed_devices: bool = False
    """Take latencies of several devices, as their profiles and rooflines name them, for those of this one."""


class Workload(_Strict):
    """A closed loop: `concurrency` sequences decode at any time until all `requests` are done.

    Prefill is not simulated: every request begins with its prompt in all caches.
    """

    concurrency: Annotated[int, Field(ge=1, le=1024)] = 1
    requests: Annotated[int, Field(ge=1, le=100_000)] = 8
    prompt_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    grouping: Literal["run_now", "wait_to_group"] = "wait_to_group"
    """Which waiting requests the device takes next: the longest-waiting group, or the shallowest so that
    verifications gather everyone."""

    @property
    def scheduler_grouping(self) -> Grouping:
        """The same as the scheduler's own type."""
        return Grouping(self.grouping)


class LevelSpec(_Strict):
    """One level: a network read out at an exit layer."""

    network: Name
    """A key of `networks`."""
    exit_layer: Count | None = None
    """Depth of the exit; the whole network when left out."""
    draft_length: Count | None = None
    """Level 0 only (Nd): tokens drafted before level 1 verifies."""
    verify_period: Count | None = None
    """Level 2 and above (Ni): tokens that the level below gathers before this level verifies."""
    shortlist: Count | None = None
    """Read out only so many of the most frequent tokens of the vocabulary; never at the target."""


class IndependentSpec(_Strict):
    """Every level accepts every token with its own probability."""

    model: Literal["independent"]
    accept: Annotated[list[Probability], Field(min_length=1)]
    """One per verifying level, from level 1 to the target."""
    clustering: Annotated[float, Field(ge=0, lt=1)] = 0.0


class PerPositionSpec(_Strict):
    """Acceptance by a token's place in the run under verification."""

    model: Literal["per_position"]
    accept: Annotated[list[Annotated[list[Probability], Field(min_length=1)]], Field(min_length=1)]
    """Per verifying level: P(accepted at place i | accepted at all places before)."""
    clustering: Annotated[float, Field(ge=0, lt=1)] = 0.0


class AgreementSpec(_Strict):
    """How one verifying level relates to the level below it."""

    accept: Probability | None = None
    """Level 1: P(it predicts the drafted token), on the target's path."""
    accept_if_agreed: Probability | None = None
    """Level 2 and above: P(it accepts | the level below had confirmed the token)."""
    accept_if_differed: Probability | None = None
    """Level 2 and above: P(it accepts | the level below had replaced the token)."""
    off_path: Probability | None = None
    """Acceptance behind a token that will be rejected; needed for every level but the target."""


class CorrelatedSpec(_Strict):
    """Levels that tend to be right together: what a middle level confirmed is likelier to please the target."""

    model: Literal["correlated"]
    levels: Annotated[list[AgreementSpec], Field(min_length=1)]
    """One per verifying level, from level 1 to the target."""
    clustering: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Lag-1 autocorrelation of how easy successive tokens are."""


class ChainSpec(_Strict):
    """Levels in a chain, each as right as its network says (`target_accepts`, `exit_curve`), at any exit layer."""

    model: Literal["chain"]
    differed_over_agreed: Annotated[float, Field(gt=0, le=1)] = 1.0
    """P(a level accepts what the level below replaced) over P(... what it confirmed); 1 for independent levels."""
    clustering: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TraceSpec(_Strict):
    """Replay of a recorded agreement trace."""

    model: Literal["trace"] = "trace"
    trace: str
    """Agreement trace, relative to this scenario file. Networks are matched with the recorded ones by shape."""


AcceptanceSpec = Annotated[
    IndependentSpec | PerPositionSpec | CorrelatedSpec | ChainSpec | TraceSpec, Field(discriminator="model")
]


class Policy(_Strict):
    """One way to decode: a cascade and what is known of its acceptance."""

    name: Name
    levels: Annotated[list[LevelSpec], Field(min_length=1, max_length=8)]
    """From the drafting level to the target."""
    bonus: Literal["always", "on_mismatch"] = "on_mismatch"
    """Whether a verifier adds a token of its own always (HiSpec Algorithm 1) or only on a mismatch (Algorithm 2)."""
    acceptance: AcceptanceSpec | None = None
    """Needed by every policy of more than one level."""

    @model_validator(mode="before")
    @classmethod
    def _a_trace_is_a_model(cls, data: Any) -> Any:
        """`acceptance: {trace: FILE}` is short for `{model: trace, trace: FILE}`."""
        acceptance = data.get("acceptance") if isinstance(data, dict) else None
        if isinstance(acceptance, dict) and "trace" in acceptance and "model" not in acceptance:
            return {**data, "acceptance": {"model": "trace", **acceptance}}
        return data

    @property
    def bonus_rule(self) -> Bonus:
        """The same as the cascade's own type."""
        return Bonus(self.bonus)


class Wall(_Strict):
    """The verification wall figure: a target pass over K tokens against one draft token."""

    draft: Name
    """A key of `networks`."""
    tensor_parallel: Annotated[list[Count], Field(min_length=1)] = [1, 2, 4, 8]
    """Those that the profiles hold are drawn."""


class Scenario(_Strict):
    """One reproducible comparison of decoding policies on one device."""

    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 1
    repetitions: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Runs per policy, each with streams of its own; intervals are over them."""
    parameters: dict[str, Parameter] = {}
    """Named numbers with sources; use them as $name."""
    networks: Annotated[dict[Name, Network], Field(min_length=1)]
    device: Device = Device()
    workload: Workload = Workload()
    policies: Annotated[list[Policy], Field(min_length=1)]
    wall: Wall | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Scenario:
        names = [policy.name for policy in self.policies]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two policies are named {name!r}; names must differ")
        return self


def json_schema() -> dict[str, Any]:
    """JSON Schema of a scenario file, for editors: every number may also be a `$name` reference."""

    def walk(item: Any) -> Any:
        if isinstance(item, list):
            return [walk(value) for value in item]
        if not isinstance(item, dict):
            return item
        walked = {key: walk(value) for key, value in item.items()}
        if item.get("type") in ("number", "integer"):
            shared = {key: walked.pop(key) for key in ("description", "title", "default") if key in walked}
            return {**shared, "anyOf": [walked, {"type": "string", "pattern": r"^\$[A-Za-z_][A-Za-z0-9_]*$"}]}
        return walked

    schema: dict[str, Any] = walk(Scenario.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
