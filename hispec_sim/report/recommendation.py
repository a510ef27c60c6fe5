"""`recommendation.json`: the answer to a sweep as plain data. Scripts depend on these names; VERSION counts breaks."""

from __future__ import annotations

from typing import Any, Literal

from hispec_sim.report.summary import Interval, Plain

VERSION = 1

Kind = Literal["autoregressive", "single_layer", "hierarchy"]
Role = Literal["autoregressive", "single_layer", "hierarchy", "paper_default"]
KINDS: tuple[Kind, ...] = ("autoregressive", "single_layer", "hierarchy")
"""By levels: 1, 2, and more. The order is that of simplicity."""
TITLES: dict[str, str] = {
    "autoregressive": "autoregressive decoding",
    "single_layer": "single-layer speculation",
    "hierarchy": "a hierarchy",
    "paper_default": "the paper's default",
}


class Margin(Plain):
    """A paired ratio of two configurations that met the same luck, with its 95 % interval over that luck."""

    ratio: float
    low: float
    high: float


class Choice(Plain):
    """One configuration that was simulated again to be compared, with its event-driven figures."""

    role: Role
    """The best of its kind, or the default of the paper that proposed the hierarchy."""
    point: str
    """The sweep's name of it; empty where it is no point of the sweep."""
    policy: str
    levels: list[dict[str, Any]]
    """`network`, `exit_layer`, `verify_period` (level 1: Nd; above: Ni), draft first."""
    bonus: str
    concurrency: int
    tokens_per_s: Interval
    tpot_ms: Interval
    n_points: int
    """How many points of its kind the sweep has, under the same conditions: how hard it was tuned."""
    recommended_over_this: Margin
    """The recommended configuration's score over this one's."""


class InputEffect(Plain):
    """What one uncertain input does to the advice when it alone changes."""

    name: str
    unit: str
    value: float
    low: float
    """End of the range that was tried."""
    high: float
    source: str
    """Why this range."""
    advantage: float
    """The recommended configuration's score over that of the best of another kind, at `value`."""
    advantage_at_low: float
    advantage_at_high: float
    flips_below: float | None
    """Nearest value under `value` at which the advice changes; null if it does not within the range."""
    flips_above: float | None
    advice_below: Kind | None
    """What is advised beyond `flips_below`."""
    advice_above: Kind | None


class Recommendation(Plain):
    """What to run, against what, and what would change it."""

    format: str = "hispec-recommendation"
    version: int = VERSION
    sentence: str
    advice: Kind
    objective: str
    max_tpot_ms: float | None
    where: str | None
    min_gain: float
    """A more complex kind is advised only where it gains at least this share."""
    repetitions: int
    choices: list[Choice]
    """The best of every kind that the sweep has, simplest first, then the paper's default."""
    inputs: list[InputEffect]
    """The widest effect first."""
    speculative_config: dict[str, Any] | None
    """For vLLM's --speculative-config, where it can serve the recommended configuration."""
    notes: list[str]
    sweep: dict[str, Any]
    """Where the sweep came from: its own meta data."""

    @property
    def recommended(self) -> Choice:
        """The choice that the advice names."""
        return next(choice for choice in self.choices if choice.role == self.advice)


def choice_text(answer: Recommendation, choice: Choice) -> str:
    """A choice in words, with its load where choices differ in that."""
    text = choice.policy
    if len(choice.levels) > 1:
        text += f": {levels_text(choice.levels)}, bonus {choice.bonus}"
    return text + load_text(answer, choice)


def load_text(answer: Recommendation, choice: Choice) -> str:
    """A choice's load, nothing where all choices have one."""
    loads = {other.concurrency for other in answer.choices}
    return f", concurrency {choice.concurrency}" if len(loads) > 1 else ""


def levels_text(levels: list[dict[str, Any]]) -> str:
    """One configuration in words: where it drafts and verifies, with its draft length and periods."""
    if len(levels) == 1:
        return f"{levels[0]['network']} alone"
    draft, target = levels[0], levels[-1]
    where = _place(draft, target)
    middle = "".join(f", verify early at {_place(level, target)}" for level in levels[1:-1])
    periods = "".join(f", Ni {level['verify_period']}" for level in levels[2:])
    return f"draft at {where}{middle}, Nd {levels[1]['verify_period']}{periods}"


def _place(level: dict[str, Any], target: dict[str, Any]) -> str:
    if level["network"] == target["network"]:
        return f"exit {level['exit_layer']}"
    return f"{level['network']}@{level['exit_layer']}"
