"""Real forwards, timed as they occur in decoding: what is measured, and the short scenes it is measured in.

Nothing is timed alone in a loop, where its weights would stay in the processor's caches. An episode is a scene of the
decode loop: a pass through the whole network span by span, drafts in a row, a decode from start to end. Episodes
of all kinds and sizes follow one another in random order, so that a machine that grows slower does so for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any, Protocol

from hispec_sim.execute.choosing import Greedy, Token
from hispec_sim.execute.record import DeviceForward, Record
from hispec_sim.models.cache import Piece
from hispec_sim.profiler.clock import Clock
from hispec_sim.profiler.token_pool import TokenPool


class What(StrEnum):
    """What a sample is the time of."""

    SPAN = "span"  # a forward
    REPEAT = "repeat"  # a forward of one token from layer 0 to an exit; query_tokens: which one behind the target's
    VERIFY = "verify"  # a forward from an exit to the last layer, behind a row of drafts by that exit
    EXIT_HEAD = "exit_head"  # a forward that is read out, less the same without reading out
    SHORTLIST = "shortlist"  # the same for a shortlist's LM head
    JUDGE = "judge"  # greedy choices of all sequences
    PASS = "pass"  # from the end of a forward that is not read out to the next forward
    READ = "read"  # the same where the whole network has run and is read out
    DRAFTED = "drafted"  # the same behind a draft; query_tokens: which one behind the target's
    CAUGHT_UP = "caught_up"  # the same behind a forward of the draft's layers that is not read out


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """What was timed. `logits`: rows that each sequence reads out; `context`: tokens, cached and new, of each; `size`:
    of a shortlist. Zero where it has no meaning."""

    what: What
    batch: int
    query_tokens: int
    context: int = 0
    first_layer: int = 0
    last_layer: int = 0
    logits: int = 0
    size: int = 0


class Kind(StrEnum):
    """What happens in an episode."""

    PASS = "pass"  # all spans in turn, then all layers at once, then the choices from their logits
    VERIFY = "verify"  # a forward from an exit to the last layer, behind a row of drafts by that exit
    EXIT_HEAD = "exit_head"  # one exit read out through its head, at every context
    SHORTLIST = "shortlist"
    DECODE = "decode"  # prompts decoded by the executor, for the time between forwards
    DRAFTS = "drafts"  # the same with rows of drafts by one exit


@dataclass(frozen=True, slots=True, order=True)
class Episode:
    """One scene. `layer`: the exit that is read out or drafts, or which cascade decodes."""

    kind: Kind
    batch: int
    query_tokens: int = 1
    context: int = 0
    layer: int = 0
    size: int = 0


Sample = tuple[Point, float]
PLACES = (1, 2, 3, 4, 8)
"""Which drafts of a row are timed: what few layers take falls from one to the next, for eight or so."""
ROWS = {1: 16, 2: 12, 4: 8, 8: 6}
"""Drafts between verifications, and how many such rows are decoded, the first and the last of which are not timed: the
one meets a loop that the processor's caches do not hold yet, in the other room grows short, which takes the step graph
some thought. What catches up behind a row is the forward of the place that follows."""
ROWS_MS, FEWEST_ROWS = 90.0, 3
"""Rows of a large network, whose verifications would take longer together, are fewer: it does not fit into caches."""


WARM_MS = 60.0
"""So long the caches of a processor may take to hold what a loop of forwards reads: a server's third level, of tens of
megabytes, takes in only what is asked for again and again."""


class Forwards(Protocol):
    """Runs forwards (`timed_network.TimedNetwork`, or a test's)."""

    def forward(self, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> Any:
        """Logits of all rows that are read out, or None."""
        ...

    def settle_forward(self, first_layer: int, last_layer: int, pieces: Sequence[Piece]) -> None:
        """Do what must be done before such a forward is timed for the first time."""
        ...


@dataclass(frozen=True, slots=True)
class Bench:
    """Plays episodes. `networks`: by batch; `cuts`: where a pass is cut into spans; `contexts` in which exit heads are
    timed; `short_exits`: the exit that reads out a shortlist, by its size; `decode`: decodes so many prompts by the
    cascade of a number; `draft`: the same with rows of so many drafts by the exit at a layer, in the middle of which
    sequences have about so many tokens."""

    networks: Mapping[int, Forwards]
    clock: Clock
    n_layers: int
    ids: TokenPool
    cuts: Sequence[int]
    contexts: Sequence[int]
    short_exits: Mapping[int, int]
    decode: Callable[[int, int], Record]
    draft: Callable[[int, int, int, int], Record]

    def play(self, episode: Episode) -> list[Sample]:
        """The samples of one episode."""
        scenes = {
            Kind.PASS: self._pass,
            Kind.EXIT_HEAD: self._exit_head,
            Kind.SHORTLIST: self._shortlist,
            Kind.DECODE: self._decode,
            Kind.DRAFTS: self._drafts,
        }
        return scenes[episode.kind](episode)

    def fill(self, batch: int, tokens: int) -> None:
        """Push so many tokens through all layers, in pieces: caches hold real keys and values from then on."""
        for position in range(0, tokens, 64):
            self._untimed(batch, min(64, tokens - position), min(position + 64, tokens), 0, self.n_layers, 0)

    def _untimed(self, batch: int, tokens: int, context: int, first: int, last: int, logits: int) -> None:
        self.networks[batch].forward(first, last, self._pieces(batch, tokens, context, first, logits))

    def _forward(self, batch: int, tokens: int, context: int, first: int, last: int, logits: int) -> tuple[float, Any]:
        network, pieces = self.networks[batch], self._pieces(batch, tokens, context, first, logits)
        network.settle_forward(first, last, pieces)
        return self.clock.timed(lambda: network.forward(first, last, pieces))

    def _pieces(self, batch: int, tokens: int, context: int, first: int, logits: int) -> list[Piece]:
        ids = self.ids.take(batch, tokens) if first == 0 else [()] * batch
        return [Piece(i, context - tokens, tokens, logits, ids[i]) for i in range(batch)]

    def _warm(self, batch: int, context: int) -> None:
        """What runs before a forward in decoding: the whole network, over and over. A short span behind anything else
        takes longer, and so does all of it where the scene before has read other keys and values."""
        warm(self.clock.now_s, lambda: self._forward(batch, 1, context, 0, self.n_layers, 1))

    def _pass(self, episode: Episode) -> list[Sample]:
        batch, tokens, context = episode.batch, episode.query_tokens, episode.context
        prompt = tokens == context
        logits = 1 if prompt else tokens  # a prompt is read out at its end
        cuts = [*self.cuts, self.n_layers]
        # Behind spans of as many tokens a forward finds all as it needs it; a verification, behind drafts, does not.
        whole = (0, self.n_layers)
        spans = [*pairwise((0, *cuts)), whole] if tokens == 1 else [whole, *pairwise((0, *cuts))]
        if prompt:  # long and steady: two spans tell enough
            spans = [(0, cuts[len(cuts) // 2]), (cuts[len(cuts) // 2], self.n_layers)]
        self._warm(batch, context)
        samples: list[Sample] = []
        out = None
        for first, last in spans:
            rows = logits if last == self.n_layers else 0
            ms, out = self._forward(batch, tokens, context, first, last, rows)
            samples.append((Point(What.SPAN, batch, tokens, context, first, last, rows), ms))
        if not prompt:
            ms, _ = self.clock.timed(lambda: _judge(out, batch, tokens))
            samples.append((Point(What.JUDGE, batch, tokens), ms))
        return samples

    def _exit_head(self, episode: Episode) -> list[Sample]:
        batch, tokens, exit_layer = episode.batch, episode.query_tokens, episode.layer
        samples = []
        for context in self.contexts:
            if context > tokens:  # one token before them, read out, lets the head catch up to where they begin
                self._untimed(batch, 1, context - tokens, 0, exit_layer, 1)
                silent_ms, _ = self._forward(batch, tokens, context, 0, exit_layer, 0)
                read_ms, _ = self._forward(batch, tokens, context, 0, exit_layer, tokens)
                point = Point(What.EXIT_HEAD, batch, tokens, context, 0, exit_layer, tokens)
                samples.append((point, read_ms - silent_ms))
        return samples

    def _shortlist(self, episode: Episode) -> list[Sample]:
        tokens, exit_layer = episode.query_tokens, self.short_exits[episode.size]
        at = (episode.batch, tokens, episode.context, 0, exit_layer)
        self._untimed(*at, tokens)
        silent_ms, _ = self._forward(*at, 0)
        read_ms, _ = self._forward(*at, tokens)
        return [(Point(What.SHORTLIST, *at, tokens, episode.size), read_ms - silent_ms)]

    def _decode(self, episode: Episode) -> list[Sample]:
        return between_forwards(self.decode(episode.batch, episode.layer), self.n_layers)

    def _drafts(self, episode: Episode) -> list[Sample]:
        batch, exit_layer, context = episode.batch, episode.layer, episode.context
        self._warm(batch, context)
        records = [self.draft(batch, exit_layer, context, length) for length in ROWS]
        return [
            sample
            for record in records
            for sample in (
                *of_drafts(record, batch, exit_layer, context),
                *of_verifications(record, self.n_layers, context),
                *behind_verifications(record, self.n_layers),
            )
        ]


def rows_of(length: int, pass_ms: float) -> int:
    """How many rows of so many drafts are decoded; `pass_ms`: what one token takes through all layers."""
    return max(FEWEST_ROWS, min(ROWS[length], int(ROWS_MS / pass_ms)))


def warm(clock_s: Callable[[], float], run: Callable[[], object]) -> None:
    """Run it, and again until `WARM_MS` have passed, a hundred times at most."""
    until_s = clock_s() + WARM_MS / 1000
    for _ in range(100):
        run()
        if clock_s() >= until_s:
            return


def _judge(logits: Any, batch: int, tokens: int) -> None:
    chooser, run = Greedy(), [Token(0, 0)] * (tokens - 1)
    for first in range(0, batch * tokens, tokens):
        chooser.judge(0, logits[first : first + tokens], run, bonus=True)


def between_forwards(record: Record, n_layers: int) -> list[Sample]:
    """The time from the end of each forward to the next one, but for the first third: prefill, and a loop that the
    processor's caches do not hold yet."""
    samples = []
    for forward, gap_ms in _gaps(record)[len(record.device) // 3 :]:
        rows, ragged = divmod(forward.logits, forward.batch)
        if not ragged and (rows == 0 or forward.last_layer == n_layers):
            what = What.READ if rows else What.PASS
            samples.append((Point(what, forward.batch, rows), gap_ms))
    return samples


def of_drafts(record: Record, batch: int, exit_layer: int, context: int) -> list[Sample]:
    """Forwards of the layers up to an exit where all sequences of the batch run, and the time behind each, but for
    those of the first row and the last."""
    rows: list[list[tuple[DeviceForward, float]]] = [[]]
    for forward, gap_ms in _gaps(record):
        if forward.last_layer == exit_layer:
            rows[-1].append((forward, gap_ms))
        else:
            rows.append([])
    samples = []
    for row in rows[1:-1]:
        for nth, (forward, gap_ms) in enumerate(row, start=1):
            read = forward.logits > 0
            if forward.batch == batch and (nth in PLACES or not read):
                repeat = Point(What.REPEAT, batch, nth, context, 0, exit_layer, int(read))
                samples.append((repeat, forward.duration_ms))
                what, place = (What.DRAFTED, nth) if read else (What.CAUGHT_UP, 1)
                samples.append((Point(what, batch, place, last_layer=exit_layer), gap_ms))
    return samples


def of_verifications(record: Record, n_layers: int, context: int) -> list[Sample]:
    """The target's forward behind each row of drafts but the first, where all sequences of the batch run."""
    found = [forward for forward in record.device if forward.last_layer == n_layers and forward.first_layer]
    batch = max((forward.batch for forward in found), default=0)
    return [
        (
            Point(What.VERIFY, batch, f.longest, context, f.first_layer, n_layers, f.logits // batch),
            f.duration_ms,
        )
        for f in found[1:]
        if f.batch == batch
    ]


def behind_verifications(record: Record, n_layers: int) -> list[Sample]:
    """The time behind each verification of rows of drafts, but for the first; behind the last comes nothing."""
    found = [
        (Point(What.READ, forward.batch, forward.logits // forward.batch), gap_ms)
        for forward, gap_ms in _gaps(record)
        if forward.last_layer == n_layers
    ]
    return found[1:]


def _gaps(record: Record) -> list[tuple[DeviceForward, float]]:
    """Each forward but the last, and the milliseconds from its end to the next one."""
    timed = zip(record.device, record.with_gaps_ms(), strict=True)
    return [(forward, ms - forward.duration_ms) for forward, ms in timed][:-1]
