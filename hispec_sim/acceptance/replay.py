"""Outcomes read off an agreement trace: exact on the target's path, from recorded continuations off it.

While every tentative token is the target's own, the trace knows what each level predicts, with all correlation
between levels and neighbouring positions. Behind a token that some level holds and the target will reject, that level
goes on alone until the target looks: the recorded continuation of just this token is replayed if there is one, and
otherwise a random one of the same exit and the same text. (Not of any text: all have about as many recorded, but hard
ones need more, and off the path too their exits agree less.) It cannot change what is committed, but it costs time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.sampled_labels import draw_labels
from hispec_sim.acceptance.trace import STEPS, UNREAD, AgreementTrace, Exit, pair_columns
from hispec_sim.cascade import Cascade
from hispec_sim.errors import InputError
from hispec_sim.networks import NetworkSpec
from hispec_sim.step_graph import Node

Rows = list[list[int]]
_ALONE = [0]
_ALL = -1


class ReplaySource:
    """A trace read for one cascade; makes a sampler per request.

    `networks` are the cascade's networks by name. Raises InputError if the trace is of other networks, lacks an exit,
    or lacks continuations of a middle level.
    """

    def __init__(self, trace: AgreementTrace, cascade: Cascade, networks: Mapping[str, NetworkSpec]) -> None:
        self.trace, self.cascade, self.networks = trace, cascade, networks
        self.columns = _columns(trace, cascade, networks)
        self._recorded: list[dict[tuple[int, int], int]] = []
        self._pools: list[dict[int, list[int]]] = []
        self._rows: dict[tuple[int, int], Rows] = {}
        for level, column in enumerate(self.columns):
            middle = 0 < level < cascade.target  # nobody goes on alone for long but a middle level
            recorded, pools = _continuations(trace, column) if middle else ({}, {})
            self._recorded.append(recorded)
            self._pools.append(pools)
            if middle:
                self._check_continuations(level, list(recorded.values()))
        self._confirmed = self._mean_acceptance()

    def on(self, trace: AgreementTrace) -> ReplaySource:
        """The same cascade over another trace of the same exits."""
        return ReplaySource(trace, self.cascade, self.networks)

    def sampler(self, sequence: int, rng: np.random.Generator, first: int = 0) -> ReplaySampler:
        """The outcomes of the request that decodes the given recorded sequence (modulo their number), from its token
        number `first` on."""
        sequence %= self.trace.n_sequences
        return ReplaySampler(self, sequence, self._sequence_rows(sequence, rng), rng, first)

    def output_tokens(self, sequence: int) -> int:
        """Length of a recorded sequence."""
        return int(self.trace.lengths[sequence % self.trace.n_sequences])

    def continuation(self, level: int, sequence: int, position: int | None, rng: np.random.Generator) -> Rows:
        """Label rows behind a wrong token of a level: those recorded at a position of the sequence, or any."""
        index = None if position is None else self._recorded[level].get((sequence, position))
        if index is None:
            index = self.any_continuation(level, sequence, rng)
        columns = list(self.columns[: level + 1])
        if self.trace.sampling is not None:
            log_prob = self.trace.off_path.rows[index][:, columns]
            return draw_labels(log_prob, self._confirmed[None, :level], rng)
        known = self._rows.get((level, index))
        if known is None:
            known = self._rows[level, index] = self.trace.off_path.rows[index][:, columns].tolist()
        return known

    def any_continuation(self, level: int, sequence: int, rng: np.random.Generator) -> int:
        """Number, in the trace, of a random continuation of a level: of the sequence, or of any if it has none."""
        pools = self._pools[level]
        pool = pools.get(sequence) or pools[_ALL]
        return pool[int(rng.integers(len(pool)))]

    def _sequence_rows(self, sequence: int, rng: np.random.Generator) -> Rows:
        chosen = slice(int(self.trace.starts[sequence]), int(self.trace.starts[sequence + 1]))
        sampling, columns = self.trace.sampling, list(self.columns)
        if sampling is None:
            rows: Rows = self.trace.labels[chosen][:, columns].tolist()
            return rows
        log_prob = sampling.log_prob[chosen][:, columns]
        confirmed = np.tile(self._confirmed, (len(log_prob), 1))
        if len(columns) > 2:
            pair = pair_columns(self.trace.target)[columns[-3], columns[-2]]
            confirmed[:, -1] = sampling.confirmed[chosen, pair] / STEPS
        return draw_labels(log_prob, confirmed, rng)

    def _mean_acceptance(self) -> NDArray[np.float64]:
        """Mean acceptance of each level but the first and the target: for what no recorded number tells."""
        sampling = self.trace.sampling
        middles = range(1, len(self.columns) - 1)
        if sampling is None:
            return np.zeros(len(middles))
        pairs = pair_columns(len(self.trace.exits))
        places = [pairs[self.columns[k - 1], self.columns[k]] for k in middles]
        return np.array([sampling.acceptance[:, place].mean() / STEPS for place in places])

    def _check_continuations(self, level: int, found: list[int]) -> None:
        column, rows = self.columns[level], self.trace.off_path.rows
        exit_ = self.trace.exits[column]
        if not found:
            if self.trace.sampling is not None or self.trace.labels[:, column].any():
                target = self.trace.exits[-1].network
                cure = (
                    "record it with that exit among --exits and --middles"
                    if exit_.network == target
                    else f"recordings follow wrong tokens of the target's exits only: let an exit of {target} be that "
                    "level, or give an acceptance model instead of a trace"
                )
                raise InputError(
                    f"the trace holds no text behind wrong tokens of {exit_}, which a middle level needs; {cure}"
                )
            return
        for below in self.columns[:level]:
            first = rows[found[0], 0, below]
            if np.isnan(first) if rows.dtype == np.float16 else first == UNREAD:
                raise InputError(
                    f"behind wrong tokens of {exit_} the trace has not read {self.trace.exits[below]}, which is "
                    "recorded above it; record that exit's network first"
                )


@dataclass(slots=True)
class _Path:
    """Text behind a wrong token: from place `start` among the tentative tokens on, compared with level `reference`."""

    reference: int
    start: int
    rows: Rows


class ReplaySampler:
    """Replays one sequence. It keeps, per tentative token, its label and the labels of all levels at its place."""

    def __init__(self, source: ReplaySource, sequence: int, rows: Rows, rng: np.random.Generator, first: int) -> None:
        self._source = source
        self._sequence = sequence
        self._rows = rows
        self._rng = rng
        self._target = len(source.columns) - 1
        self._committed = first
        self._held: list[tuple[int, list[int]]] = []
        self._paths: list[_Path] = []  # off the target's path, each behind a wrong token of the one before

    def draft(self, node: Node) -> None:
        self._propose(0)

    def verify(self, node: Node) -> int:
        level, first, held = node.level, node.verified_from, self._held
        matched = 0
        for label, row in held[first : first + node.run]:
            if level >= len(row) or row[level] != label:
                break
            matched += 1
        own_token = matched < node.run or node.bonus
        if level == self._target:
            self._committed += matched + own_token
            held.clear()
            self._paths.clear()
        elif own_token:
            del held[first + matched :]
            while self._paths and self._paths[-1].start > len(held):
                self._paths.pop()
            self._propose(level)
        return matched

    def _propose(self, level: int) -> None:
        place = len(self._held)
        if self._paths:
            path = self._paths[-1]
            reference, row = path.reference, self._off_path_row(path, place)
        else:
            reference, row = self._target, self._rows[self._committed + place]
        label = row[level]
        self._held.append((label, row))
        if label != row[reference]:
            holder = level  # the last of the levels that accept it one after another: that one goes on alone
            while row[holder + 1] == label:
                holder += 1
            where = None if self._paths else self._committed + place
            rows = list(self._source.continuation(holder, self._sequence, where, self._rng)) if holder else []
            self._paths.append(_Path(holder, place + 1, rows))

    def _off_path_row(self, path: _Path, place: int) -> list[int]:
        if path.reference == 0:
            return _ALONE
        while place - path.start >= len(path.rows):  # it went on longer than was recorded
            path.rows += self._source.continuation(path.reference, self._sequence, None, self._rng)
        return path.rows[place - path.start]


@lru_cache(maxsize=64)
def _continuations(trace: AgreementTrace, column: int) -> tuple[dict[tuple[int, int], int], dict[int, list[int]]]:
    """The numbers of an exit's continuations by (sequence, position), and by sequence; under `_ALL` all of them."""
    numbers = np.flatnonzero(trace.off_path.at[:, 2] == column).tolist()
    recorded, pools = {}, {_ALL: numbers}
    for number in numbers:
        sequence, position, _ = trace.off_path.at[number].tolist()
        recorded[sequence, position] = number
        pools.setdefault(sequence, []).append(number)
    return recorded, pools


def _columns(trace: AgreementTrace, cascade: Cascade, networks: Mapping[str, NetworkSpec]) -> tuple[int, ...]:
    """The trace's exit for each level. Raises InputError naming what does not fit."""
    names = {name: _recorded_as(trace, name, networks[name]) for name in {level.network for level in cascade.levels}}
    if len(set(names.values())) < len(names):
        raise InputError(
            f"networks {', '.join(sorted(names))} are all of one shape; name them as the trace does: "
            f"{', '.join(network.name for network in trace.networks)}"
        )
    columns = []
    for level in cascade.levels:
        if level.shortlist is not None:
            raise InputError(
                f"the trace was recorded with every exit read out in full, so it cannot tell what a shortlist of "
                f"{level.shortlist} tokens would predict; leave the shortlist out, or give another acceptance model"
            )
        wanted = Exit(names[level.network], level.exit_layer)
        if wanted not in trace.exits:
            layers = ", ".join(str(exit_.exit_layer) for exit_ in trace.exits if exit_.network == wanted.network)
            raise InputError(
                f"the trace has no exit {wanted}; of {wanted.network} it has layers {layers or 'none at all'}"
            )
        columns.append(trace.exits.index(wanted))
    if columns[-1] != trace.target:
        raise InputError(f"the trace was recorded on the target {trace.exits[-1]}, not on {trace.exits[columns[-1]]}")
    return tuple(columns)


def _recorded_as(trace: AgreementTrace, name: str, spec: NetworkSpec) -> str:
    """The trace's name for a network: the recorded one of the same shape, by name where several have it."""
    same = [network.name for network in trace.networks if _shape(network) == _shape(spec)]
    if name in same:
        return name
    if spec.name in same:
        return spec.name
    if len(same) == 1:
        return same[0]
    if same:
        raise InputError(f"the trace holds several networks like {name} ({', '.join(same)}); give it the name of one")
    recorded = ", ".join(f"{n.name} ({n.n_layers} layers, hidden {n.hidden_size})" for n in trace.networks)
    raise InputError(
        f"the trace is of another model: network {name} is {spec.name} ({spec.n_layers} layers, hidden "
        f"{spec.hidden_size}), recorded are {recorded}; record a trace of this model"
    )


def _shape(network: NetworkSpec) -> dict[str, object]:
    return {key: value for key, value in asdict(network).items() if key not in ("name", "tied_embedding")}
