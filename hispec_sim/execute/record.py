"""What an execution did: enough to prove what was reused, and to replay it in the simulator unless it met a stop token,
which the simulator does not know."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hispec_sim.cascade import Forward


@dataclass(slots=True)
class SequenceRecord:
    """One sequence: the forwards that were run for it, in order, and the outcomes of its verifications, but for whether
    a stop token was among the tokens."""

    forwards: list[Forward] = field(default_factory=list)
    verified: list[tuple[int, int, int]] = field(default_factory=list)  # level, run, matched


@dataclass(slots=True)
class DeviceForward:
    """One forward of the device: what it ran, for how many sequences and tokens, how long it took, when it began (since
    the execution did), and of its longest sequence: query tokens, and tokens, cached and new, that it attended to. All
    others are padded to these. `prefill_ms` went behind it to the prompts that took the slots of ended sequences."""

    network: str
    first_layer: int
    last_layer: int
    batch: int
    tokens: int
    logits: int
    shortlist: int | None
    duration_ms: float
    began_ms: float = 0.0
    longest: int = 0
    reach: int = 0
    prefill_ms: float = 0.0


@dataclass(slots=True)
class Record:
    """A whole execution. `wall_ms` includes the time between forwards, but not what `on_commit` took; `prefill_ms` is
    that of prefill where it was a phase of its own, whose forwards are not among those of `device`."""

    sequences: list[SequenceRecord] = field(default_factory=list)
    device: list[DeviceForward] = field(default_factory=list)
    wall_ms: float = 0.0
    prefill_ms: float = 0.0

    @property
    def decode_ms(self) -> float:
        """Time but for the prefill phase."""
        return self.wall_ms - self.prefill_ms

    @property
    def forward_ms(self) -> float:
        """Time inside forwards."""
        return sum(forward.duration_ms for forward in self.device)

    def with_gaps_ms(self) -> list[float]:
        """The time of each forward with the gap behind it, but for prefill; the first has what goes before it too. They
        add up to `decode_ms`."""
        behind_ms = [forward.prefill_ms for forward in self.device]
        began = [self.prefill_ms - sum(behind_ms), *(forward.began_ms for forward in self.device[1:]), self.wall_ms]
        return [end - start - prefill for start, end, prefill in zip(began[:-1], began[1:], behind_ms, strict=True)]

    def tokens_through(self) -> Counter[tuple[str, int, int]]:
        """How many tokens were pushed through each (network, first_layer, last_layer]."""
        counts: Counter[tuple[str, int, int]] = Counter()
        for forward in self.device:
            counts[forward.network, forward.first_layer, forward.last_layer] += forward.tokens
        return counts
