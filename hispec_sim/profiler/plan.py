"""Which points a latency profile is measured at: a coarse full grid first, then what the budget has room for."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hispec_sim.errors import InputError
from hispec_sim.profiler.forwards import Episode, Kind

COARSE_QUERY_TOKENS = (1, 2, 4, 8, 16, 32)
REFINED_QUERY_TOKENS = (3, 5, 9, 6, 7, 12, 11, 24, 10, 20)
"""In the order in which they are added: verifications are mostly of a few tokens, and kernels switch there. They are
measured at the shortest and the longest context: how a layer grows in between, others tell."""
EXIT_QUERY_TOKENS = (1, 2, 3, 4, 5, 8, 32)
PROMPT_TOKENS = (64, 128, 256, 512)
"""Of all sequences of a batch together at most the last (but the shortest prompt is there for every batch)."""
DRAFT_EXITS = (1, 2, 4, 6, 8, 16)
"""Of a network that can draft at any exit."""
CONTEXTS = (32, 128, 256, 512)
SPAN_LENGTHS = (1, 2, 4, 8)
LONG = 4.0


@dataclass(frozen=True, slots=True)
class Grid:
    """What is asked for: batches, query tokens, contexts, exits with trained heads, sizes of shortlists, how many
    cascades decode for the time between forwards, and the exits whose rows of drafts are timed (`DRAFT_EXITS` unless
    given). Raises InputError for a context that has no room for a cached token and a new one."""

    n_layers: int
    batches: tuple[int, ...]
    query_tokens: tuple[int, ...]
    contexts: tuple[int, ...]
    head_exits: tuple[int, ...] = ()
    shortlists: tuple[int, ...] = ()
    cascades: int = 1
    draft_exits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.contexts) < 2:
            raise InputError(
                f"--contexts must be of at least 2 tokens, a cached one and a new one, got {min(self.contexts)}"
            )

    @property
    def drafting(self) -> tuple[int, ...]:
        """The exits whose rows of drafts are timed."""
        return self.draft_exits or tuple(n for n in DRAFT_EXITS if n < self.n_layers)

    def episodes(self) -> list[Episode]:
        """One for each scene, in a fixed order."""
        found = []
        longest = self.contexts[-1]
        for batch in self.batches:
            for tokens in self.query_tokens:
                fitting = [context for context in self.contexts if context > tokens]
                some = fitting if tokens not in REFINED_QUERY_TOKENS else sorted({fitting[0], longest})
                found += [Episode(Kind.PASS, batch, tokens, context) for context in some]
            prompts = [tokens for tokens in PROMPT_TOKENS if self.query_tokens[-1] < tokens <= longest]
            most = max(PROMPT_TOKENS[-1], batch * PROMPT_TOKENS[0])
            found += [Episode(Kind.PASS, batch, tokens, tokens) for tokens in prompts if batch * tokens <= most]
            for exit_layer in self.head_exits:
                spans = [tokens for tokens in EXIT_QUERY_TOKENS if tokens in self.query_tokens]
                found += [Episode(Kind.EXIT_HEAD, batch, tokens, layer=exit_layer) for tokens in spans]
            for exit_layer in self.drafting:
                ends = sorted({self.contexts[0], longest})  # what is saved depends little on the context
                found += [Episode(Kind.DRAFTS, batch, 1, context, exit_layer) for context in ends]
            found += [Episode(Kind.DECODE, batch, layer=number) for number in range(self.cascades)]
        for size in self.shortlists:
            spans = [tokens for tokens in EXIT_QUERY_TOKENS if tokens in self.query_tokens]
            found += [Episode(Kind.SHORTLIST, 1, tokens, self.contexts[-1], size=size) for tokens in spans]
        return found

    def refinements(self) -> list[Grid]:
        """Finer grids, each with one more value, the most useful first; a next one builds on the one before."""
        finer, grid = [], self
        for tokens in REFINED_QUERY_TOKENS:
            if tokens < self.query_tokens[-1] and tokens not in self.query_tokens:
                grid = replace(grid, query_tokens=tuple(sorted((*grid.query_tokens, tokens))))
                finer.append(grid)
            if tokens == 5 and self.batches[-1] > 2 and len(self.batches) > 1 and 2 not in self.batches:
                # Sequences drift apart: a part of the batch runs, which takes a copy of its caches.
                grid = replace(grid, batches=tuple(sorted((*grid.batches, 2))))
                finer.append(grid)
        return finer


def chosen_grid(coarse: Grid, cost_s: Mapping[Episode, float], room_s: float) -> Grid:
    """The finest grid of which one round takes at most `room_s`; costs of new episodes are those of the next larger.
    Long episodes are played in about half of the rounds."""
    best, long_s = coarse, long_from_s(cost_s)
    for grid in coarse.refinements():
        expected = [_expected_s(episode, cost_s) for episode in grid.episodes()]
        if sum(s if s <= long_s else s / 2 for s in expected) > room_s:
            break
        best = grid
    return best


def long_from_s(cost_s: Mapping[Episode, float]) -> float:
    """An episode that takes longer is a long one: their times vary least, and they cost most."""
    return LONG * statistics.median(cost_s.values())


def _expected_s(episode: Episode, cost_s: Mapping[Episode, float]) -> float:
    if episode in cost_s:
        return cost_s[episode]
    larger = [
        seconds
        for known, seconds in cost_s.items()
        if (known.kind, known.layer, known.size) == (episode.kind, episode.layer, episode.size)
        and known.batch >= episode.batch
        and known.query_tokens >= episode.query_tokens
        and known.context >= episode.context
    ]
    return min(larger, default=0.0)


def cuts_of(n_layers: int, exits: Sequence[int]) -> tuple[int, ...]:
    """Where a pass is cut: spans of 1, 2, 4, 8 layers, the rest, and the last layer alone; and at the exits."""
    found, at = {n_layers - 1, *exits}, 0
    for length in SPAN_LENGTHS:
        at += length
        found.add(at)
    return tuple(sorted(cut for cut in found if 0 < cut < n_layers))


def short_exits(shortlists: Sequence[int], cuts: Sequence[int], taken: Sequence[int]) -> dict[int, int]:
    """An exit for each shortlist that nothing else is read out at. Raises InputError if there are too few."""
    free = [cut for cut in cuts if cut not in taken]
    if len(shortlists) > len(free):
        raise InputError(
            f"--shortlists: at most {len(free)} can be timed in one profile of this network, each at an exit that "
            f"nothing else is read out at, got {len(shortlists)}; give fewer"
        )
    return dict(zip(shortlists, free, strict=False))
