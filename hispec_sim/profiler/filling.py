"""Rows of a profile that no scene measured: contexts too short, long prompts of batches, all sequences of a batch but
one, later pieces of prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from hispec_sim.latency.profile import ProfileRow

SHORT_CONTEXTS = (1, 8)


def _derived(op: str, batch: int, tokens: int, context: int | None, ms: float) -> ProfileRow:
    return ProfileRow(op, 1, batch, tokens, context, ms, "derived")


def shorter(rows: Sequence[ProfileRow], missing: Sequence[int]) -> list[ProfileRow]:
    """Rows at contexts shorter than any measured: on the line through the two shortest, for attention grows in
    proportion to the context; but at least half of the shortest. `rows`: of one op and shape, by context."""
    at = {row.context or 0: row.ms for row in rows}
    first, *longer = sorted(at)
    slope = max(0.0, (at[longer[0]] - at[first]) / (longer[0] - first)) if longer else 0.0
    wanted = {*missing, *(context for context in SHORT_CONTEXTS if context < min([first, *missing]))}
    row = rows[0]
    return [
        _derived(row.op, row.batch, row.query_tokens, c, max(at[first] / 2, at[first] - slope * (first - c)))
        for c in sorted(wanted)
    ]


def prompts_of_all_batches(rows: Sequence[ProfileRow]) -> list[ProfileRow]:
    """Long prompts are measured for small batches only. A larger batch takes as much longer for a longer prompt as the
    smallest does; the embedding goes on as a straight line."""
    at = {(row.op, row.batch, row.query_tokens): row for row in rows if row.context in (None, row.query_tokens)}
    batches = sorted({row.batch for row in rows if row.op == "forward"})
    prompts = sorted({row.query_tokens for row in rows if row.op == "layer" and row.context == row.query_tokens})
    found = list(rows)
    for op, batch, tokens in product(("layer", "forward"), batches, prompts):
        if (op, batch, tokens) not in at:
            known = max(p for p in prompts if (op, batch, p) in at)
            ms = at[op, batch, known].ms * at[op, batches[0], tokens].ms / at[op, batches[0], known].ms
            found.append(_derived(op, batch, tokens, tokens if op == "layer" else None, ms))
    looked_up = sorted((row for row in rows if row.op == "embedding"), key=lambda row: row.query_tokens)
    most = batches[-1] * prompts[-1] if prompts else 0
    if len(looked_up) > 1 and most > looked_up[-1].query_tokens:
        few, many = looked_up[0], looked_up[-1]
        slope = (many.ms - few.ms) / (many.query_tokens - few.query_tokens)
        ms = many.ms + max(0.0, slope) * (most - many.query_tokens)
        found.append(_derived("embedding", 1, most, None, ms))
    return found


def all_but_one(rows: Sequence[ProfileRow]) -> list[ProfileRow]:
    """A part of a batch takes its sequences out of the caches, the whole batch finds them there: what a measured part
    takes beyond the line between one sequence and all of them grows with its sequences, up to all but one. `rows`: of
    any ops, of which prompts' are left out, for these come one at a time; without a measured part of at least two
    sequences, or with this one, nothing is added."""
    batches = sorted({row.batch for row in rows})
    whole, parts = batches[-1], [batch for batch in batches[:-1] if batch > 1]
    if not parts or parts[-1] == whole - 1:
        return []
    part, at = parts[-1], {(row.op, row.query_tokens, row.context, row.batch): row.ms for row in rows}
    found = []
    shapes = dict.fromkeys((row.op, row.query_tokens, row.context) for row in rows if row.op != "layer_prefill")
    for op, tokens, context in shapes:
        known = {batch: at.get((op, tokens, context, batch)) for batch in (1, part, whole)}
        one, some, all_ = known[1], known[part], known[whole]
        if one is not None and some is not None and all_ is not None:
            line_part, line = np.interp([part, whole - 1], [1, whole], [one, all_])
            ms = max(float(line) / 2, float(line + (some - line_part) * (whole - 1) / part))
            found.append(_derived(op, whole - 1, tokens, context, ms))
    return found


def filled(rows: Iterable[ProfileRow]) -> list[ProfileRow]:
    """`layer` rows as two full grids: up to the query tokens of a verification, and `layer_prefill` beyond, whose rows
    were measured at prompts' ends only. Contexts too short for their query tokens get the shortest that is not;
    a prompt's later pieces add attention in proportion to their tokens."""
    layers = [row for row in rows if row.op == "layer"]
    kept = [row for row in rows if row.op != "layer"]
    at = {(row.batch, row.query_tokens, row.context or 0): row for row in layers}
    prompts = sorted({row.query_tokens for row in layers if row.context == row.query_tokens})
    spans = sorted({row.query_tokens for row in layers} - set(prompts))
    batches = sorted({row.batch for row in layers})
    contexts = sorted({row.context or 0 for row in layers if row.query_tokens in spans})
    for batch in batches:
        longest = [at[batch, spans[-1], context].ms for context in contexts if (batch, spans[-1], context) in at]
        longest_contexts = [context for context in contexts if (batch, spans[-1], context) in at]
        for tokens in spans:
            fitting = [at[batch, tokens, c] for c in contexts if (batch, tokens, c) in at]
            kept += fitting
            missing = [context for context in contexts if (batch, tokens, context) not in at]
            kept += shorter(fitting, missing)
        for tokens in [spans[-1], *prompts] if prompts else []:
            own = at.get((batch, tokens, tokens))
            for context in [1, *contexts]:
                if own is None:  # the span where both tables meet
                    ms = float(np.interp(context, longest_contexts, longest))
                else:
                    grown = np.interp([context, tokens], longest_contexts, longest)
                    ms = own.ms + max(0.0, float(grown[0] - grown[1])) * tokens / spans[-1]
                if own is not None and own.origin == "measured" and context == tokens:
                    kept.append(ProfileRow("layer_prefill", 1, batch, tokens, context, own.ms, "measured",
                                           own.p10_ms, own.p90_ms, own.repeats))  # fmt: skip
                else:
                    kept.append(_derived("layer_prefill", batch, tokens, context, ms))
    return kept
