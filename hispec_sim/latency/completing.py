"""What no scene of a decode loop measures and its profile prices: contexts too short or in between, long prompts of
batches, later pieces of prompts, all sequences of a batch but one. A file holds what was measured; this is added when
it is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.latency.ops import exit_layer_of
from hispec_sim.latency.profile_row import ProfileRow

SHORT_CONTEXTS = (1, 8)


def completed(rows: Sequence[ProfileRow]) -> list[ProfileRow]:
    """The rows, and `derived` ones to make full grids of those of a measured decode loop. Other profiles, and files of
    earlier versions, which hold derived rows themselves, are left as they are. Raises InputError if rows are missing
    that others follow from."""
    ops = {row.op for row in rows}
    if not ops >= {"forward", "layer", "embedding"} or any(row.origin == "derived" for row in rows):
        return list(rows)
    try:
        found = [*rows, *long_prompts(rows)]
        found += contexts_between(found)
        found += short_contexts(found)
        found += later_pieces(found)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"incomplete grid of forward, layer or layer_prefill: no row from which {error} follows"
        ) from None
    return [*found, *all_but_one(found)]


def short_contexts(rows: Iterable[ProfileRow]) -> list[ProfileRow]:
    """Layers and exit heads at contexts shorter than any measured with as many query tokens: on the line through the
    two shortest, for attention grows in proportion to the context; but at least half of the shortest."""
    shapes: dict[tuple[str, int, int], dict[int, float]] = defaultdict(dict)
    contexts: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row.op == "layer" or exit_layer_of(row.op):
            shapes[row.op, row.batch, row.query_tokens][row.context or 0] = row.ms
            contexts[row.op].add(row.context or 0)
    found = []
    for (op, batch, tokens), at in shapes.items():
        shortest, *longer = sorted(at)
        slope = max(0.0, (at[longer[0]] - at[shortest]) / (longer[0] - shortest)) if longer else 0.0
        wanted = contexts[op].union(context for context in SHORT_CONTEXTS if context < min(contexts[op]))
        for context in sorted(context for context in wanted if context < shortest):
            ms = max(at[shortest] / 2, at[shortest] - slope * (shortest - context))
            found.append(_derived(op, batch, tokens, context, ms))
    return found


def contexts_between(rows: Iterable[ProfileRow]) -> list[ProfileRow]:
    """Layers of query tokens that were measured at few contexts, at the contexts of others in between, on the
    straight line through their two neighbours: attention grows in proportion to the context."""
    shapes: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row.op == "layer":
            shapes[row.batch, row.query_tokens][row.context or 0] = row.ms
    wanted = sorted({context for at in shapes.values() for context in at})
    found = []
    for (batch, tokens), at in shapes.items():
        known, known_ms = sorted(at), [at[context] for context in sorted(at)]
        between = [context for context in wanted if context not in at and known[0] < context < known[-1]]
        for context, ms in zip(between, np.interp(between, known, known_ms).tolist(), strict=True):
            found.append(_derived("layer", batch, tokens, context, ms))
    return found


def long_prompts(rows: Iterable[ProfileRow]) -> list[ProfileRow]:
    """Long prompts are measured for small batches only. A larger batch takes as much longer for a longer prompt as the
    smallest does; the embedding goes on as a straight line."""
    at = {(row.op, row.batch, row.query_tokens): row.ms for row in rows if row.context in (None, row.query_tokens)}
    batches = sorted({batch for op, batch, _ in at if op == "forward"})
    prompts = sorted({tokens for op, _, tokens in at if op == "layer_prefill"})
    found = []
    for op, batch, tokens in product(("layer_prefill", "forward"), batches, prompts):
        if (op, batch, tokens) not in at:
            known = max(prompt for prompt in prompts if (op, batch, prompt) in at)
            ms = at[op, batch, known] * at[op, batches[0], tokens] / at[op, batches[0], known]
            found.append(_derived(op, batch, tokens, tokens if op == "layer_prefill" else None, ms))
    few, *more = sorted(tokens for op, _, tokens in at if op == "embedding")
    most = batches[-1] * prompts[-1] if prompts else 0
    if more and most > more[-1]:
        few_ms, many_ms = at["embedding", 1, few], at["embedding", 1, more[-1]]
        slope = max(0.0, (many_ms - few_ms) / (more[-1] - few))
        found.append(_derived("embedding", 1, most, None, many_ms + slope * (most - more[-1])))
    return found


def later_pieces(rows: Sequence[ProfileRow]) -> list[ProfileRow]:
    """`layer_prefill`, which is measured at the ends of prompts, as a grid over contexts that begins at the most query
    tokens that `layer` has: behind other tokens a piece takes attention more in proportion to its own."""
    layer = {(row.batch, row.query_tokens, row.context or 0): row.ms for row in rows if row.op == "layer"}
    prompts = {(row.batch, row.query_tokens): row.ms for row in rows if row.op == "layer_prefill"}
    widest = max(tokens for _, tokens, _ in layer)
    contexts = sorted({context for _, _, context in layer} | {tokens for _, tokens in prompts})
    found = []
    for batch in sorted({batch for batch, _ in prompts}):
        known = sorted(context for b, tokens, context in layer if (b, tokens) == (batch, widest))
        known_ms = [layer[batch, widest, context] for context in known]
        of_widest = dict(zip(contexts, np.interp(contexts, known, known_ms).tolist(), strict=True))
        found += [_derived("layer_prefill", batch, widest, context, ms) for context, ms in of_widest.items()]
        for tokens in sorted(tokens for b, tokens in prompts if b == batch):
            for context in contexts:
                if context != tokens:
                    more_ms = max(0.0, of_widest[context] - of_widest[tokens]) * tokens / widest
                    found.append(_derived("layer_prefill", batch, tokens, context, prompts[batch, tokens] + more_ms))
    return found


def all_but_one(rows: Sequence[ProfileRow]) -> list[ProfileRow]:
    """A part of a batch takes its sequences out of the caches, the whole batch finds them there. What a measured part
    takes beyond the line between one sequence and all of them all but one take too: it is calls rather than bytes. Of
    what forwards take, and not of prompts, which come one at a time; without a measured part of at least two sequences,
    or with this one, nothing is added."""
    forwards = [row for row in rows if row.op in ("forward", "layer") or exit_layer_of(row.op)]
    batches = sorted({row.batch for row in forwards})
    whole, parts = batches[-1], [batch for batch in batches[:-1] if batch > 1]
    if not parts or parts[-1] == whole - 1:
        return []
    part, at = parts[-1], {(row.op, row.query_tokens, row.context, row.batch): row.ms for row in forwards}
    found = []
    for op, tokens, context in dict.fromkeys((row.op, row.query_tokens, row.context) for row in forwards):
        known = {batch: at.get((op, tokens, context, batch)) for batch in (1, part, whole)}
        one, some, all_ = known[1], known[part], known[whole]
        if one is not None and some is not None and all_ is not None:
            line_part, line = np.interp([part, whole - 1], [1, whole], [one, all_])
            found.append(_derived(op, whole - 1, tokens, context, max(float(line) / 2, float(line + some - line_part))))
    return found


def _derived(op: str, batch: int, tokens: int, context: int | None, ms: float) -> ProfileRow:
    return ProfileRow(op, 1, batch, tokens, context, ms, "derived")
