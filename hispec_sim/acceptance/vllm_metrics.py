"""Acceptance of a server that decodes speculatively, from the counters that vLLM shows to Prometheus.

Of `num_drafts` drafts, `per_position[k]` had the token at place k accepted, and with it all before it: what a draft of
this length did, summed over all requests since the server started.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hispec_sim.errors import InputError

PREFIX = "vllm:spec_decode_num_"
_LINE = re.compile(r"^(?P<name>vllm:spec_decode_num_\w+_total)(\{(?P<labels>.*)\})?\s+(?P<value>[^\s]+)(\s+\d+)?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

UNKNOWN = (
    "how acceptance at neighbouring places and of successive drafts hangs together (drafts of easy and hard text are "
    "summed)",
    "what a middle level would do, and what happens behind a rejected token: there is one verifier, and it stops there",
    "acceptance at other draft lengths than the server's, and with another draft or temperature",
    "which requests it comes from: all of them since the counters began, in one mean",
)
"""What cannot be known from the counters."""


@dataclass(frozen=True, slots=True)
class Counters:
    """One model's counters. Raises InputError if no server can have counted so."""

    model: str
    drafts: int
    draft_tokens: int
    accepted_tokens: int
    per_position: tuple[int, ...]

    def __post_init__(self) -> None:
        falling = [self.drafts, *self.per_position]
        if self.drafts < 1:
            raise InputError(f"model {self.model} has counted no draft: let it serve requests, then dump again")
        if sorted(falling, reverse=True) != falling or self.per_position[-1] < 0:
            raise InputError(
                f"accepted tokens must not rise with the position, got {self.per_position} of {self.drafts}"
            )
        if sum(self.per_position) != self.accepted_tokens or self.accepted_tokens > self.draft_tokens:
            raise InputError(
                f"the counters do not fit: {self.accepted_tokens} tokens accepted of {self.draft_tokens} drafted, but "
                f"{sum(self.per_position)} over all positions; dump them in one go"
            )

    @property
    def accept(self) -> tuple[float, ...]:
        """P(accepted at place k | accepted at all places before); ends where no draft came further."""
        reached = (self.drafts, *self.per_position)
        return tuple(now / before for before, now in zip(reached, self.per_position, strict=False) if before)

    @property
    def tokens_per_target_pass(self) -> float:
        """Accepted tokens and the target's own."""
        return 1 + self.accepted_tokens / self.drafts

    def since(self, before: Counters) -> Counters:
        """What was counted after an earlier dump. Raises InputError if the server has started anew in between."""
        if before.drafts > self.drafts or before.draft_tokens > self.draft_tokens:
            raise InputError("the earlier dump has counted more: the server has started anew; leave --since out")
        if len(before.per_position) != len(self.per_position):
            raise InputError("the two dumps are of servers with different draft lengths")
        return Counters(
            self.model,
            self.drafts - before.drafts,
            self.draft_tokens - before.draft_tokens,
            self.accepted_tokens - before.accepted_tokens,
            tuple(now - then for now, then in zip(self.per_position, before.per_position, strict=True)),
        )


def read_metrics(path: Path, model: str | None = None) -> Counters:
    """Counters of a dump of /metrics, all engines of a model summed. Raises InputError that says what is missing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    totals: dict[str, dict[tuple[str, int], int]] = {}
    for number, line in enumerate(lines, 1):
        found = _LINE.match(line.strip())
        if found is None:
            continue
        labels = dict(_LABEL.findall(found["labels"] or ""))
        name = found["name"].removeprefix(PREFIX).removesuffix("_total")
        place = labels.get("position", "-1")
        if name == "accepted_tokens_per_pos" and not place.isdecimal():
            raise InputError(f'{path}, line {number}: no position="..." among the labels')
        mine = totals.setdefault(labels.get("model_name", "(no name)"), {})
        key = (name, int(place) if place.isdecimal() else -1)
        mine[key] = mine.get(key, 0) + _count(found["value"], f"{path}, line {number}")
    if not totals:
        raise InputError(
            f"{path} holds no {PREFIX}..._total: dump it with curl http://HOST:8000/metrics from a vLLM server (V1) "
            "that decodes speculatively"
        )
    if model is None and len(totals) > 1:
        raise InputError(f"{path} is of several models: choose with --model-name one of {', '.join(sorted(totals))}")
    chosen = model if model is not None else next(iter(totals))
    if chosen not in totals:
        raise InputError(f"{path} has no model {chosen!r}; it has {', '.join(sorted(totals))}")
    return _counters(path, chosen, totals[chosen])


def _counters(path: Path, model: str, found: dict[tuple[str, int], int]) -> Counters:
    places = sorted(place for name, place in found if name == "accepted_tokens_per_pos")
    missing = [
        PREFIX + name + "_total" for name in ("drafts", "draft_tokens", "accepted_tokens") if (name, -1) not in found
    ]
    if not places:
        missing.append(PREFIX + "accepted_tokens_per_pos_total")
    if missing == [PREFIX + "drafts_total", PREFIX + "accepted_tokens_per_pos_total"]:
        raise InputError(
            f"{path} lacks {' and '.join(missing)}, which servers of vLLM V0 and the first of V1 do not count: "
            "acceptance by position needs vLLM V1's metrics; dump them from a server with a newer vLLM"
        )
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; dump /metrics as a whole")
    if places != list(range(len(places))):
        raise InputError(f"{path}: positions {places} have gaps; dump /metrics as a whole")
    per_position = tuple(found["accepted_tokens_per_pos", place] for place in places)
    return Counters(model, found["drafts", -1], found["draft_tokens", -1], found["accepted_tokens", -1], per_position)


def _count(text: str, where: str) -> int:
    try:
        value = float(text)
        if value < 0 or value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(f"{where}: a counter must be a whole number, got {text!r}") from None
    return int(value)


def scenario_block(counters: Counters, source: str, notes: Sequence[str] = ()) -> str:
    """YAML to paste: parameters with their source, and the acceptance of a policy of two levels."""
    lines = [
        f"# {counters.drafts} drafts of {counters.draft_tokens / counters.drafts:.2f} tokens on the mean, "
        f"{counters.tokens_per_target_pass:.3f} tokens per target pass.",
        "# Not known from these counters:",
        *(f"# - {note}" for note in UNKNOWN),
        *(f"# note: {note}" for note in notes),
        "parameters:",
    ]
    quoted = source.replace("'", "''")
    for place, share in enumerate(counters.accept):
        lines.append(f"  vllm_accept_{place}: {{value: {share:.6f}, source: '{quoted}, position {place}'}}")
    names = ", ".join(f"$vllm_accept_{place}" for place in range(len(counters.accept)))
    lines += [
        "# in the policy, whose level 0 has draft_length: " + str(len(counters.per_position)),
        "bonus: always  # vLLM adds a token of the target to every draft that it accepts whole",
        "acceptance:",
        "  model: per_position",
        f"  accept: [[{names}]]",
    ]
    return "\n".join(lines) + "\n"


def notes_on(counters: Counters) -> list[str]:
    """What is odd about some counters."""
    full = counters.drafts * len(counters.per_position)
    if counters.draft_tokens == full:
        return []
    return [
        f"drafts were shorter than {len(counters.per_position)} tokens at times ({counters.draft_tokens} tokens in "
        f"all, not {full}): later positions look worse than they are"
    ]
