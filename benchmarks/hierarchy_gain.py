"""Is HiSpec faster than the best single-layer speculation, in real wall-clock decoding of one model?

    python benchmarks/hierarchy_gain.py --run DIR [--temperature 0.8] [--out gain.json]
    python benchmarks/hierarchy_gain.py --model smollm2 --exit-heads DIR --prompts prompts.jsonl --exits 4,8,12,16

Both ways of decoding are tuned with the same care on tuning prompts, and then compared on other prompts:

1. The target writes the tuning texts once and all exits read them. Every single-layer configuration (exit, draft
   length, bonus rule) and every HiSpec configuration (draft exit, middle exit, Nd, Ni, bonus rule) is replayed over
   them, which counts its forwards; forwards times their milliseconds, measured in the decode loop, rank it.
2. The best of both kinds are decoded for real on the tuning prompts, in turn; the fastest of each kind is chosen.
3. On the test prompts autoregressive decoding and both winners run in turn, in changing order, round after round.

Greedy texts are checked to be the target's own. Sampled texts differ from one configuration to the next; all have the
same number of tokens, since stop tokens are not heeded, and exits are ranked by how often sampled tokens would agree.
Timings need a quiet machine: nothing else should run, and the last line says whether anything did.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gain_prompts import Split, Tokens, documents_of, split_file, split_groups, windows_of
from gain_report import Contender, compare, print_comparison, tie_gap
from gain_search import NETWORK, Noise, build, hierarchical, measure_prices, name_of, rank, record_trace, single_layer
from measuring import Quietness, machine, machine_line, watched, write_json

from hispec_sim.cascade import Bonus, Cascade
from hispec_sim.errors import InputError
from hispec_sim.execute.generate import Generation, Settings, generate
from hispec_sim.execute.record import Record
from hispec_sim.models.exits import heads_of
from hispec_sim.models.layouts import lay_out_for_cpu
from hispec_sim.models.llama import Llama
from hispec_sim.models.loading import load_model
from hispec_sim.models.train.export import trained_network
from hispec_sim.models.train.run_folder import HELD_OUT, read_settings, read_stream


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is tried and measured."""

    tuning: int = 52
    test: int = 28
    prompt_tokens: int = 64
    new_tokens: int = 128
    drafts: Sequence[int] = range(1, 13)
    hierarchical_drafts: Sequence[int] = range(1, 7)
    periods: Sequence[int] = range(2, 17)
    screened_on: int = 8
    """Tuning texts on which all candidates are replayed; the best twentieth goes on to all of them."""
    shortlist: int = 8
    """Candidates of each kind that are decoded for real on a quarter of the tuning prompts."""
    finalists: int = 3
    """Of these, decoded on all tuning prompts."""
    rounds: int = 3
    temperature: float = 0.0
    seed: int = 0


QUICK = {
    "tuning": 4, "test": 2, "prompt_tokens": 16, "new_tokens": 16, "drafts": (1, 3), "hierarchical_drafts": (1, 2),
    "periods": (2, 4), "screened_on": 2, "shortlist": 2, "finalists": 1, "rounds": 1,
}  # fmt: skip


@dataclass(slots=True)
class Bench:
    """One model with its prompts, and every greedy text that was not the target's own."""

    network: Llama
    exits: list[int]
    prompts: Split
    plan: Plan
    plain_texts: dict[int, Tokens] = field(default_factory=dict)
    """Autoregressive texts of tuning prompts, by number."""
    checked: int = 0
    not_lossless: list[dict[str, Any]] = field(default_factory=list)

    @property
    def depth(self) -> int:
        """Layers of the target."""
        return self.network.config.shape.n_layers

    def decode(self, cascade: Cascade, prompt: Tokens, seed: int) -> Generation:
        """One prompt, for real."""
        settings = Settings(self.plan.new_tokens, temperature=self.plan.temperature, seed=seed)
        return generate(cascade, {NETWORK: self.network}, prompt, settings)

    def check(self, cascade: Cascade, prompt: Tokens, text: Tokens, plain: Tokens) -> None:
        """Note a greedy text that differs from the autoregressive one."""
        if self.plan.temperature:
            return
        self.checked += 1
        if text != plain:
            gap = tie_gap(self.network, prompt, plain, text)
            self.not_lossless.append({"cascade": name_of(cascade), "prompt": prompt, "logit_gap": gap})


def calibrate(bench: Bench) -> list[Record]:
    """Real executions in which the forwards that candidates need occur."""
    lower = [exit_layer for exit_layer in bench.exits if exit_layer <= bench.depth / 2] or bench.exits
    cascades = [build([(bench.depth, 0)])]
    for i, exit_layer in enumerate(lower):
        for draft_length in (2, 5, 10):
            cascades.append(build([(exit_layer, 0), (bench.depth, draft_length)], list(Bonus)[(i + draft_length) % 2]))
        for j, middle in enumerate(lower[i + 1 :]):
            levels = [(exit_layer, 0), (middle, 1 + j % 4), (bench.depth, (4, 8, 12)[j % 3])]
            cascades.append(build(levels, list(Bonus)[(i + j) % 2]))
    prompts = bench.prompts.tuning[:3]
    bench.decode(cascades[0], prompts[0], 0)
    work = [(cascade, prompts[i % len(prompts)]) for i, cascade in enumerate(cascades)]
    return [bench.decode(cascade, prompt, 0).record for cascade, prompt in watched(work, "measuring forwards")]


def race(bench: Bench, contenders: Sequence[Cascade], prompts: Sequence[Tokens], text: str) -> list[float]:
    """Milliseconds per new token of each contender over the prompts, in turn and in changing order."""
    plain = build([(bench.depth, 0)])
    total = np.zeros(len(contenders))
    for number, prompt in enumerate(watched(prompts, text)):
        if number not in bench.plain_texts:  # also a warm-up
            bench.plain_texts[number] = bench.decode(plain, prompt, number).token_ids
        for i in np.roll(np.arange(len(contenders)), number):
            generation = bench.decode(contenders[i], prompt, number)
            total[i] += generation.record.wall_ms
            bench.check(contenders[i], prompt, generation.token_ids, bench.plain_texts[number])
    return list(total / (len(prompts) * bench.plan.new_tokens))


def tune(bench: Bench) -> tuple[list[Contender], dict[str, Any]]:
    """The fastest single-layer and the fastest HiSpec cascade on the tuning prompts, and how they were found."""
    plan, prompts = bench.plan, bench.prompts.tuning
    prices = measure_prices(calibrate(bench))
    noise = Noise(len(prompts), bench.network.config.shape.vocab_size, plan.temperature, plan.seed)
    trace = record_trace(bench.network, np.array(prompts), plan.new_tokens, bench.exits, noise)
    agreement = {str(e): trace.agreement(i, -1) for i, e in enumerate(trace.exits[:-1])}
    print("agreement with the target on its own text: " + ", ".join(f"{e} {a:.3f}" for e, a in agreement.items()))
    kinds = {
        "single-layer": list(single_layer(bench.exits, bench.depth, plan.drafts)),
        "HiSpec": list(hierarchical(bench.exits, bench.depth, plan.hierarchical_drafts, plan.periods)),
    }
    some, everything = range(0, len(prompts), max(1, len(prompts) // plan.screened_on)), range(len(prompts))
    winners, found = [], {"agreement": agreement, "price_fit_error": prices.error, "between_ms": prices.between_ms}
    quarter = max(1, len(prompts) // 4)
    for kind, candidates in kinds.items():
        ranked = rank(watched_list(candidates, f"replaying {kind}"), trace, some, prices, plan.seed)
        kept = [cascade for _, cascade in ranked[: max(4 * plan.shortlist, len(ranked) // 20)]]
        expected = rank(kept, trace, everything, prices, plan.seed)[: plan.shortlist]
        shortlist = [cascade for _, cascade in expected]
        first = race(bench, shortlist, prompts[:quarter], f"{kind}: {len(shortlist)} on {quarter} prompts")
        best = [shortlist[i] for i in np.argsort(first)[: plan.finalists]]
        final = race(bench, best, prompts, f"{kind}: {len(best)} on {len(prompts)} prompts")
        winner = best[int(np.argmin(final))]
        winners.append(Contender(kind, winner))
        rows = [
            {"cascade": name_of(cascade), "expected_ms_per_token": ms, "screened_ms_per_token": real,
             "tuning_ms_per_token": final[best.index(cascade)] if cascade in best else None}
            for (ms, cascade), real in zip(expected, first, strict=True)
        ]  # fmt: skip
        found[kind] = {"candidates": len(candidates), "shortlist": rows, "winner": name_of(winner)}
        print(f"{kind}: {len(candidates)} candidates; the fastest on the tuning prompts is {name_of(winner)}")
        for row in rows:
            real = row["tuning_ms_per_token"] or row["screened_ms_per_token"]
            print(f"  {row['cascade']:36} expected {row['expected_ms_per_token']:.3f}, real {real:.3f} ms/token")
    return winners, found


def watched_list(candidates: list[Cascade], text: str) -> Iterator[Cascade]:
    """Candidates with a bar that moves every hundred."""
    for at in watched(range(0, len(candidates), 100), text):
        yield from candidates[at : at + 100]


def measure(bench: Bench, contenders: Sequence[Contender], quietness: Quietness) -> int:
    """Decode the test prompts with every contender, in turn; each round adds a time per prompt. Returns how many
    rounds were finished, which is fewer after Ctrl-C."""
    prompts, rounds = bench.prompts.test, bench.plan.rounds
    try:
        for round_ in range(rounds):
            for number, prompt in enumerate(watched(prompts, f"test round {round_ + 1} of {rounds}")):
                order = list(contenders) if (round_ + number) % 2 else list(reversed(contenders))
                texts = {}
                for contender in order:
                    generation = bench.decode(contender.cascade, prompt, round_ * len(prompts) + number)
                    contender.add(number, generation)
                    texts[contender.name] = generation.token_ids
                for contender in contenders[1:]:
                    bench.check(contender.cascade, prompt, texts[contender.name], texts[contenders[0].name])
                quietness.check()
    except KeyboardInterrupt:
        print("stopped; what follows is of the rounds that were finished")
    return min(len(contender.runs.get(len(prompts) - 1, [])) for contender in contenders)


def load(arguments: argparse.Namespace, plan: Plan) -> Bench:
    """The model and its prompts. Raises InputError for what is missing or does not fit together."""
    if arguments.run is None and (arguments.model is None or arguments.prompts is None):
        raise InputError("give either --run, or --model with --prompts")
    loaded = None if arguments.model is None else load_model(arguments.model, exit_heads=arguments.exit_heads)
    network = trained_network(arguments.run)[0] if loaded is None else loaded.network
    recipe_exits = sorted(read_settings(arguments.run).recipe.exits) if arguments.run else []
    exits = sorted({int(e) for e in arguments.exits.split(",")}) if arguments.exits else recipe_exits
    exits = exits or sorted(heads_of(network))
    depth = network.config.shape.n_layers
    if len(exits) < 2 or not 1 <= exits[0] <= exits[-1] < depth:
        raise InputError(f"--exits: give at least two exit layers from 1 to {depth - 1}, such as 2,8; got {exits}")
    sizes = (plan.tuning, plan.test, plan.seed)
    if arguments.prompts is not None:
        if loaded is None:
            raise InputError("--prompts needs --model, whose tokenizer reads them")
        split = split_file(arguments.prompts, loaded.tokenizer.encode, plan.prompt_tokens, *sizes)
    else:
        split = split_groups(windows_of(documents_of(read_stream(arguments.run, HELD_OUT)), plan.prompt_tokens), *sizes)
    return Bench(lay_out_for_cpu(network), exits, split, plan)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Plan]:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = Plan()
    parser.add_argument("--run", type=Path, help="folder of `hispec train reference`: its checkpoint and held-out text")
    parser.add_argument("--model", help="as for hispec decode; with --run only that run's text and exits are used")
    parser.add_argument("--exit-heads", help="folder of `hispec train exits`, or none (default: the model's own)")
    parser.add_argument("--exits", help="exit layers to try (default: the run's, or those with heads)")
    parser.add_argument("--prompts", type=Path, help='JSON Lines of {"prompt": "..."}')
    for name in ("tuning", "test", "prompt_tokens", "new_tokens", "shortlist", "finalists", "rounds", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"default {getattr(plan, name)}")
    parser.add_argument("--temperature", type=float, help="default 0, greedy")
    parser.add_argument("--threads", type=int, default=1, help="default %(default)s")
    parser.add_argument("--quick", action="store_true", help="a few prompts and candidates, to see that it works")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    arguments = parser.parse_args(argv)
    given = {name: value for name, value in vars(arguments).items() if hasattr(plan, name) and value is not None}
    return arguments, replace(plan, **{**(QUICK if arguments.quick else {}), **given})


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Tune, measure, print and write. Returns all numbers."""
    arguments, plan = parse(argv)
    torch.set_num_threads(arguments.threads)
    facts = machine()
    bench = load(arguments, plan)
    quietness = Quietness()
    quietness.check()
    shape = bench.network.config.shape
    print(f"{machine_line(facts)}; {arguments.threads} thread(s)")
    print(f"{shape.name}: {shape.n_layers} layers of {shape.hidden_size}, exits {bench.exits}")
    print(f"{plan.tuning} tuning and {plan.test} test prompts {bench.prompts.disjoint}, temperature {plan.temperature}")
    winners, tuning = tune(bench)
    contenders = [Contender("autoregressive", build([(bench.depth, 0)])), *winners]
    for contender in contenders:  # a warm-up
        bench.decode(contender.cascade, bench.prompts.test[0], 0)
    finished = measure(bench, contenders, quietness)
    comparison = compare(contenders, finished, plan.seed)
    print_comparison(contenders, comparison, finished)
    results = {
        "command": [Path(sys.argv[0]).name, *(sys.argv[1:] if argv is None else argv)],
        "machine": facts,
        "threads": arguments.threads,
        "network": shape,
        "exits": bench.exits,
        "plan": {name: getattr(plan, name) for name in Plan.__slots__},
        "disjoint": bench.prompts.disjoint,
        "tuning": tuning,
        "comparison": comparison,
        "texts_checked": bench.checked,
        "texts_not_the_targets": bench.not_lossless,
        "quietness": quietness.report(),
    }
    if bench.checked:
        gaps = [text["logit_gap"] for text in bench.not_lossless]
        print(
            f"lossless: {bench.checked - len(gaps)} of {bench.checked} texts are the target's own"
            + (f"; the others part where two tokens are {max(gaps):.1e} logits apart or less" if gaps else "")
        )
    print(quietness)
    if arguments.out is not None:
        write_json(arguments.out, results)
    return results


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
