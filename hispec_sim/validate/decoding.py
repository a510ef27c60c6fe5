"""Reality: one configuration decoded by the executor."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest

from hispec_sim.cascade import Bonus
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Greedy
from hispec_sim.execute.decoder import Decoder
from hispec_sim.execute.generate import Settings, generate
from hispec_sim.execute.prompt_caches import PromptCaches
from hispec_sim.models.llama import Llama
from hispec_sim.models.loading import LoadedModel
from hispec_sim.profiler.forwards import warm
from hispec_sim.profiler.prompts import Text
from hispec_sim.validate.design import NETWORK, Configuration
from hispec_sim.validate.observation import Figures, Observation, Shape, matched_shares
from hispec_sim.validate.shared_caches import SharedCaches


def observe(
    configuration: Configuration,
    repeat: int,
    network: Llama,
    prompts: Sequence[Sequence[int]],
    clock_s: Callable[[], float] = time.perf_counter,
    prompt_caches: PromptCaches | None = None,
    shared: SharedCaches | None = None,
) -> Observation:
    """Decode the prompts greedily, each to the full length, after a prefill of its own or, with `prompt_caches`, from
    those and as if decoding had gone on for a while: with the network in the processor's caches, and its forwards as
    CUDA graphs where there are `shared` caches. Raises InputError where the prompts do not fit the network."""
    cascade = configuration.cascade(network.config.shape.n_layers)
    new_tokens = configuration.max_new_tokens
    caches = None if shared is None else shared.of(configuration.batch)
    decoder = Decoder(
        cascade,
        {NETWORK: network if caches is None else caches},
        slots=configuration.batch,
        max_tokens=max(map(len, prompts)) + new_tokens,
        clock_s=clock_s,
    )
    if prompt_caches and len(prompts[0]) > 1:
        warm(time.perf_counter, lambda: prompt_caches.run_last(prompts[0][:-1]))
    decode = partial(
        decoder.decode,
        prompts,
        new_tokens,
        new_chooser=lambda index: Greedy(),
        prefill_first=True,
        prompt_caches={NETWORK: prompt_caches} if prompt_caches else None,
    )
    if caches is not None:
        caches.settle((configuration, tuple(map(tuple, prompts))), decode)
    outputs, record = decode()
    depths = [level.exit_layer for level in cascade.levels]
    level_ms = [0.0] * len(depths)
    shapes: dict[Shape, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for f, ms in zip(record.device, record.with_gaps_ms(), strict=True):
        level_ms[depths.index(f.last_layer)] += ms
        shape = Shape(f.network, f.first_layer, f.last_layer, f.batch, f.tokens, f.logits)
        times, total = shapes[shape]
        shapes[shape] = (times + 1, total + ms)
    tokens = sum(map(len, outputs))
    passes = sum(1 for each in record.sequences for f in each.forwards if f.last_layer == depths[-1])
    verified = [each.verified for each in record.sequences]
    figures = Figures(
        tokens_per_s=1000 * tokens / record.decode_ms,
        tokens_per_target_pass=tokens / passes,
        matched_per_drafted=matched_shares([v for each in verified for v in each], len(depths)),
        forwards_per_token=len(record.device) / tokens,
        level_ms_per_token=tuple(ms / tokens for ms in level_ms),
    )
    return Observation(
        configuration.name,
        repeat,
        tokens,
        record.decode_ms,
        record.prefill_ms,
        record.forward_ms,
        figures,
        dict(shapes),
        verified,
        hashlib.sha256(repr(outputs).encode()).hexdigest(),
    )


def usable_prompts(
    texts: Sequence[Text],
    target: LoadedModel,
    wanted: int,
    new_tokens: int,
    tick: Callable[[], None],
    *,
    chat: bool = False,
) -> list[Text]:
    """The first `wanted` prompts, group after group in turn, that the target goes on from for `new_tokens` tokens
    without ending its text, so that all requests have one length. Raises InputError if there are fewer."""
    network, found = target.network, list[Text]()
    cascade = Configuration((), 1, (), Bonus.ON_MISMATCH, 1, new_tokens).cascade(network.config.shape.n_layers)
    for text in in_turn(texts):
        ids = target.tokenizer.encode_prompt(text.text, chat=chat)
        if len(ids) + new_tokens > network.config.max_positions:
            continue
        settings = Settings(new_tokens, target.tokenizer.stop_ids)
        if len(generate(cascade, {NETWORK: network}, ids, settings).token_ids) == new_tokens:
            found.append(text)
            tick()
        if len(found) == wanted:
            return found
    raise InputError(
        f"the design wants {wanted} prompts that go on for {new_tokens} tokens; {len(found)} of {len(texts)} do"
    )


def in_turn(texts: Sequence[Text]) -> list[Text]:
    """One text of every group, then another of every group, and so on, the groups in the order of their names' hashes:
    a set may grow harder from its first to its last, and the first few of these are a sample of it. The first group
    begins with its first text, the second with its second, and round: where groups are topics with the same tasks, each
    begins with another task."""
    groups: dict[str, list[Text]] = defaultdict(list)
    for text in texts:
        groups[text.group].append(text)
    rows = []
    for number, group in enumerate(sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())):
        members, first = groups[group], number % len(groups[group])
        rows.append(members[first:] + members[:first])
    return [text for one_of_each in zip_longest(*rows) for text in one_of_each if text is not None]
