"""The agreement trace: which exits predict what the target predicts, position by position of the text that it wrote.

One pass of a target over its own output records what every exit (and every draft network) predicts at every position,
so that one recording serves every cascade that can be built from those exits.

What matters of a prediction is whom it agrees with, so a position stores one small *label* per exit: 0 where the exit
predicts what the target predicts, otherwise a number that equals another exit's label exactly when both predict the
same wrong token. With sampling, what matters is how likely each exit was to draw the token that the target drew; see
`Sampling`. Behind a token that the target rejects the text is another; see `OffPath`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hispec_sim.errors import InputError
from hispec_sim.networks import NetworkSpec

UNREAD = 255
"""Label of an exit that was not read; in log-probabilities it is NaN."""
STEPS = 255
"""Probabilities are stored as whole numbers of 1/255: they are wrong by at most 0.002."""


class Exit(NamedTuple):
    """A point at which a network can be read out."""

    network: str
    exit_layer: int

    def __str__(self) -> str:
        return f"{self.network}@{self.exit_layer}"


class Prompt(NamedTuple):
    """What a sequence was recorded on: its name, the group that is split together, the hash of its text, its length."""

    name: str
    group: str
    sha256: str
    tokens: int


@dataclass(frozen=True, slots=True)
class OffPath:
    """Text behind tokens that an exit holds and the target rejects: the exit goes on alone, as it would until the
    target looks, and all exits recorded before it are read on the way.

    `at` has a row (sequence, position, exit) for each continuation: the exit (by column) put a token of its own at that
    position of that sequence, which is not the target's. `rows` has shape (continuations, tokens, exits). Greedy: uint8
    labels that compare with what this exit puts there, so its own label is 0. Sampled: float16 log-probabilities of
    what it puts there. Exits recorded behind it are unread.
    """

    at: NDArray[np.int32]
    rows: NDArray[Any]

    @classmethod
    def none(cls, exits: int, *, sampled: bool) -> OffPath:
        """No continuation."""
        return cls(np.zeros((0, 3), np.int32), np.zeros((0, 1, exits), np.float16 if sampled else np.uint8))


@dataclass(frozen=True, slots=True)
class Sampling:
    """What decoding by speculative rejection needs to know of text that was sampled.

    `log_prob`, float16, shape (positions, exits): each exit's log-probability of the token that the target drew, after
    temperature and top-p. Given the text, a token of distribution q was accepted by a level of distribution p with
    probability min(1, q(token) / p(token)): exact, whatever the pair.
    `acceptance`, uint8 in steps of 1/255, shape (positions, pairs): sum(min(p, q)) of each pair of exits, the
    probability that one accepts the other's sample, whatever the text then is. Pairs as in `pair_columns(exits)`.
    `confirmed`, likewise, shape (positions, pairs below the target): P(the upper accepts a sample of the lower | the
    target rejects what the upper then holds).
    """

    temperature: float
    top_p: float
    log_prob: NDArray[np.float16]
    acceptance: NDArray[np.uint8]
    confirmed: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class AgreementTrace:
    """All exits over all positions, sequence after sequence. Raises InputError when parts do not fit.

    A trace equals itself only, so that what is derived from it can be remembered.

    `exits` are in recorded order, drafts first, the exits of a network from shallow to deep, the target last.
    `labels` has shape (positions, exits), uint8; the target's are all 0 (with sampling, labels are of first choices).
    Sequence s covers positions `starts[s]` to `starts[s + 1]` (`starts` ends with the number of positions) and was
    recorded on `prompts[s]`. `provenance` says how, when, on what and by what command the trace was made.
    """

    networks: tuple[NetworkSpec, ...]
    exits: tuple[Exit, ...]
    labels: NDArray[np.uint8]
    starts: NDArray[np.int64]
    prompts: tuple[Prompt, ...]
    off_path: OffPath
    sampling: Sampling | None
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        self._check_exits()
        n, positions = len(self.exits), len(self.labels)
        _check_array("labels", self.labels, np.uint8, (positions, n))
        if positions == 0:
            raise InputError("the trace holds no positions")
        if self.labels[:, -1].any():
            raise InputError(f"the last exit, {self.exits[-1]}, is the target: all its labels must be 0")
        if self.starts.ndim != 1 or self.starts.dtype != np.int64 or len(self.starts) < 2:
            raise InputError("starts must be whole numbers, one per sequence and one more")
        if self.starts[0] != 0 or self.starts[-1] != positions or (np.diff(self.starts) < 1).any():
            raise InputError(f"starts must rise from 0 to the {positions} positions of the trace")
        if len(self.prompts) != self.n_sequences:
            raise InputError(f"{len(self.prompts)} prompts are named for {self.n_sequences} sequences")
        self._check_off_path()
        if self.sampling is not None:
            _check_sampling(self.sampling, positions, n)

    @property
    def n_sequences(self) -> int:
        """Recorded sequences."""
        return len(self.starts) - 1

    @property
    def target(self) -> int:
        """Column of the target."""
        return len(self.exits) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence."""
        return np.diff(self.starts)

    def agreement(self, first: int, second: int) -> float:
        """Share of positions on the target's path at which two exits (by column) predict the same token."""
        return float(np.mean(self.labels[:, first] == self.labels[:, second]))

    def _check_exits(self) -> None:
        layers = {network.name: network.n_layers for network in self.networks}
        deepest: dict[str, int] = {}
        if not self.exits or len(layers) != len(self.networks):
            raise InputError("an agreement trace needs at least one exit, and each network named once")
        for exit_ in self.exits:
            if exit_.network not in layers or not 1 <= exit_.exit_layer <= layers[exit_.network]:
                raise InputError(f"exit {exit_} is no exit of the networks {', '.join(layers)}")
            if exit_.exit_layer <= deepest.get(exit_.network, 0):
                raise InputError(f"exit {exit_} stands behind a deeper one, or twice; exits of a network go up")
            deepest[exit_.network] = exit_.exit_layer
        if self.exits[-1].exit_layer != layers[self.exits[-1].network]:
            raise InputError(f"the last exit, {self.exits[-1]}, is the target and must be its network's last layer")

    def _check_off_path(self) -> None:
        at, rows, n = self.off_path.at, self.off_path.rows, len(self.exits)
        _check_array("off_path_at", at, np.int32, (len(at), 3))
        tokens = rows.shape[1] if rows.ndim == 3 else 0
        wanted = np.uint8 if self.sampling is None else np.float16
        _check_array("off_path_rows", rows, wanted, (len(at), tokens, n))
        if tokens < 1:
            raise InputError("off_path_rows must hold at least one token per continuation")
        if not len(at):
            return
        sequence, position, column = at.T
        if (at < 0).any() or sequence.max() >= self.n_sequences or column.max() >= self.target:
            raise InputError("off_path_at names a sequence or an exit that is not there")
        if (position >= self.lengths[sequence]).any():
            raise InputError("off_path_at names a position behind the end of its sequence")
        own = np.take_along_axis(rows, column[:, None, None].astype(np.int64), 2)
        if self.sampling is None and own.any():
            raise InputError("off_path_rows must be labels that compare with the continued exit: its own are 0")


def _check_sampling(sampling: Sampling, positions: int, n: int) -> None:
    if not sampling.temperature > 0 or not 0 < sampling.top_p <= 1:
        raise InputError(f"no sampling has temperature {sampling.temperature} and top_p {sampling.top_p}")
    _check_array("log_prob", sampling.log_prob, np.float16, (positions, n))
    if (sampling.log_prob > 0).any() or np.isnan(sampling.log_prob).any():
        raise InputError("log_prob must be logarithms of probabilities")
    _check_array("acceptance", sampling.acceptance, np.uint8, (positions, n * (n - 1) // 2))
    _check_array("confirmed", sampling.confirmed, np.uint8, (positions, (n - 1) * (n - 2) // 2))


def _check_array(name: str, array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise InputError(f"{name} must be {np.dtype(dtype)} of shape {shape}, got {array.dtype} {array.shape}")


def pair_columns(exits: int) -> dict[tuple[int, int], int]:
    """Where the pair (lower, upper) of so many exits stands in arrays over pairs: (0, 1), (0, 2), ... (1, 2), ..."""
    return {(int(i), int(j)): k for k, (i, j) in enumerate(zip(*np.triu_indices(exits, 1), strict=True))}


def label_predictions(predictions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Labels from token ids of shape (positions, exits); the last column holds what 0 stands for.

    Raises InputError when more than 254 exits disagree at one position.
    """
    labels = np.zeros(predictions.shape, np.uint8)
    differs = predictions != predictions[:, -1:]
    highest = np.zeros(len(predictions), np.int64)
    for column in range(predictions.shape[1] - 1):
        fresh = differs[:, column].copy()
        for earlier in range(column):
            same = fresh & (predictions[:, earlier] == predictions[:, column])
            labels[same, column] = labels[same, earlier]
            fresh &= ~same
        highest += fresh
        if highest.max(initial=0) >= UNREAD:
            raise InputError("more than 254 different predictions at one position; record fewer exits")
        labels[fresh, column] = highest[fresh]
    return labels
