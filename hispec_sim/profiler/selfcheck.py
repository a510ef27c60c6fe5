"""What a latency profile predicts, against forwards and whole decodes that it was not made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from hispec_sim.cascade import Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Greedy
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.record import DeviceForward, Record
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.latency.profile import LatencyProfile, exit_layer_of
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.llama import Llama
from hispec_sim.models.loading import LoadedModel
from hispec_sim.profiler.bench import NETWORK, cascades, clock_for, default_exits
from hispec_sim.profiler.clock import Clock
from hispec_sim.profiler.prompts import Split, prompt_set

GOAL_MEDIAN, GOAL_P95 = 0.03, 0.08
SHAPES = 24
REPEATS = 9
PROMPTS = 3
NEW_TOKENS = 64
DECODE_ROUNDS, DECODES_S = 5, 40.0


@dataclass(frozen=True, slots=True)
class Check:
    """One prediction and what was measured, in milliseconds; `group` is what it is of: forwards or decodes."""

    group: str
    name: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """Relative, with its sign: above 0 where too much time is predicted."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, slots=True)
class Summary:
    """The errors of one group."""

    group: str
    n: int
    median: float
    p95: float
    bias: float

    @property
    def good(self) -> bool:
        """Whether both goals are met."""
        return self.median <= GOAL_MEDIAN and self.p95 <= GOAL_P95


def summaries(checks: Sequence[Check]) -> list[Summary]:
    """Median and 95th percentile of the absolute errors, and the median error, of each group."""
    found = []
    for group in dict.fromkeys(check.group for check in checks):
        errors = np.array([check.error for check in checks if check.group == group])
        sizes = np.abs(errors)
        found.append(
            Summary(
                group,
                len(errors),
                float(np.median(sizes)),
                float(np.quantile(sizes, 0.95)),
                float(np.median(errors)),
            )
        )
    return found


def summary_of(checks: Sequence[Check]) -> str:
    """For a profile's provenance."""
    return "; ".join(f"{s.n} {s.group}: median {s.median:.1%}, p95 {s.p95:.1%} off" for s in summaries(checks))


def check_profile(
    profile: LatencyProfile, model: LoadedModel, *, clock: str = "wall", seed: int = 0, prompts: str | None = None
) -> list[Check]:
    """Forwards at points between those measured, and decodes of real prompts, predicted and run."""
    network = model.network
    cost = NetworkCost(profile, tensor_parallel=1)
    timer = clock_for(network, clock)
    rng = np.random.default_rng([seed, 1])
    exits = exits_of(profile) or default_exits(network)
    texts = prompts or ("reference" if model.name == "reference" else "prose")
    return [
        *_forwards(profile, cost, network, exits, timer, rng),
        *_decodes(profile, cost, model, exits, timer, texts, rng),
    ]


def exits_of(profile: LatencyProfile) -> tuple[int, ...]:
    """The exits whose heads a profile has."""
    return tuple(sorted(e for e in {exit_layer_of(table.op) for table in profile.tables} if e is not None))


def _forwards(
    profile: LatencyProfile,
    cost: NetworkCost,
    network: Llama,
    exits: Sequence[int],
    clock: Clock,
    rng: np.random.Generator,
) -> list[Check]:
    """Spans between exits and all layers, at random batches, query tokens and contexts within the profile's ranges."""
    table = profile.table("layer", 1)
    if table is None:
        raise InputError(f"latency profile {profile.name} has no op layer: only measured profiles can be checked")
    n_layers, vocab_size = network.config.shape.n_layers, network.config.shape.vocab_size
    batches = sorted({1, int(table.batch[-1])})
    longest, widest = int(table.context[-1]), int(table.query_tokens[-1])
    cached = {
        batch: CachedNetwork(network, slots=batch, max_tokens=longest, exits=[*exits, n_layers // 2])
        for batch in batches
    }
    spans = [
        (0, n_layers),
        (0, n_layers),
        *zip((0, *exits), (*exits, n_layers), strict=True),
        (n_layers // 2, n_layers),
    ]
    shapes = []
    for number in range(SHAPES):
        tokens = int(min(np.exp(rng.uniform(0, np.log(widest + 1))), widest))
        context = int(rng.integers(tokens + 1, longest + 1))
        first, last = spans[number % len(spans)]
        # Exits are read out in decodes: here their heads would have to catch up first.
        shapes.append((batches[number % len(batches)], tokens, context, first, last, last == n_layers))

    def run(batch: int, tokens: int, context: int, first: int, last: int, read: bool) -> float:
        ids = rng.integers(0, vocab_size, (batch, tokens)).tolist() if first == 0 else [()] * batch
        logits = tokens if read else 0
        pieces = [Piece(i, context - tokens, tokens, logits, ids[i]) for i in range(batch)]
        return clock.timed(lambda: cached[batch].forward(first, last, pieces))[0]

    times: dict[int, list[float]] = {number: [] for number in range(SHAPES)}
    for repeat in range(REPEATS + 1):
        for number in rng.permutation(SHAPES):
            ms = run(*shapes[number])
            if repeat:  # the first round warms up
                times[int(number)].append(ms)
    checks = []
    for number, (batch, tokens, context, first, last, read) in enumerate(shapes):
        parts = cost.parts_ms(
            first_layer=first,
            last_layer=last,
            batch=batch,
            tokens=batch * tokens,
            logits=batch * tokens * read,
            context=context,
        )
        predicted_ms = sum(float(ms) for part, ms in parts.items() if part != "host")
        name = f"layers ({first}, {last}], batch {batch}, {tokens} query tokens, context {context}"
        checks.append(Check("forwards", name, predicted_ms, float(np.median(times[number]))))
    return checks


def _decodes(
    profile: LatencyProfile,
    cost: NetworkCost,
    model: LoadedModel,
    exits: Sequence[int],
    clock: Clock,
    prompts: str,
    rng: np.random.Generator,
) -> list[Check]:
    """Autoregressive decoding and one cascade of the exits, of one prompt and of a batch: medians of a few runs, of as
    many as take `DECODES_S`."""
    table = profile.table("layer", 1)
    assert table is not None
    network, batches = model.network, sorted({1, int(table.batch[-1])})
    n_layers, room = network.config.shape.n_layers, int(table.context[-1])
    texts = prompt_set(prompts, Split.HELD_OUT)
    ids = [model.tokenizer.encode(text.text)[: room - NEW_TOKENS] for text in texts]
    plans = list(product(range(PROMPTS), batches, enumerate(cascades(n_layers, exits))))
    predicted_ms: dict[int, float] = {}
    measured_ms: dict[int, list[float]] = {index: [] for index in range(len(plans))}
    began_s = clock.now_s()
    for _ in range(DECODE_ROUNDS):
        for index in rng.permutation(len(plans)).tolist():
            number, batch, (_, cascade) = plans[index]
            chosen = [ids[(number * batch + i) % len(ids)] for i in range(batch)]
            record = _decode(network, cascade, chosen, room, clock)
            predicted_ms[index], ms = decode_ms(record, cascade, {NETWORK: cost})
            measured_ms[index].append(ms)
        if clock.now_s() - began_s > DECODES_S:
            break
    return [
        Check(
            "decodes",
            f"{('autoregressive', 'cascade')[which]}, batch {batch}, prompt {number + 1}",
            predicted_ms[index],
            float(np.median(measured_ms[index])),
        )
        for index, (number, batch, (which, _)) in enumerate(plans)
    ]


def _decode(network: Llama, cascade: Cascade, prompts: Sequence[Sequence[int]], room: int, clock: Clock) -> Record:
    decoder = Decoder(cascade, {NETWORK: network}, slots=len(prompts), max_tokens=room, clock_s=clock.loop_s)
    return decoder.decode(prompts, NEW_TOKENS, new_chooser=lambda index: Greedy())[1]


def decode_ms(record: Record, cascade: Cascade, costs: Mapping[str, NetworkCost]) -> tuple[float, float]:
    """What the forwards of a decode should take together with the time between them, and what they took. The prompt's
    prefill and the first round, in which exit heads catch up on the prompt, are left out."""
    target = cascade.levels[-1]
    ends = [index for index, forward in enumerate(record.device) if _reaches(forward, target)]
    first = ends[min(1, len(ends) - 1)] + 1
    if first >= len(record.device):
        raise InputError("the decode is too short to be checked; give longer prompts or more new tokens")
    predicted_ms = 0.0
    for index, forward in enumerate(record.device[first:], first):
        predicted_ms += float(
            costs[forward.network].forward_ms(
                first_layer=forward.first_layer,
                last_layer=forward.last_layer,
                batch=forward.batch,
                tokens=forward.batch * forward.longest,
                logits=forward.logits,
                context=forward.reach,
                shortlist=forward.shortlist,
                in_row=in_row(record.device[:index], forward, target),
            )
        )
    return predicted_ms, record.wall_ms - record.device[first].began_ms


def in_row(before: Sequence[DeviceForward], forward: DeviceForward, target: Level) -> int | None:
    """What the forwards of the device say of `step_graph.Node.in_row`, where all levels below the target are exits of
    one network: as much or, for levels that verify, more, for here their runs can be counted."""
    if _reaches(forward, target) or (forward.first_layer and not forward.logits):
        return None
    place = 1
    for earlier in reversed(before):
        if earlier.network != forward.network or _reaches(earlier, target):
            break
        if earlier.logits and earlier.last_layer > forward.last_layer:
            return place + 1
        place += earlier.logits > 0 and earlier.last_layer == forward.last_layer
    return place


def _reaches(forward: DeviceForward, target: Level) -> bool:
    return (forward.network, forward.last_layer) == (target.network, target.exit_layer)
