"""The benchmark of HiSpec against single-layer speculation: its parts, and all of it on a tiny network."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import gain_report
import hierarchy_gain
import numpy as np
import pytest
import torch
from gain_prompts import Split, documents_of, split_file, split_groups, windows_of
from gain_search import NETWORK, Noise, build, measure_prices, record_trace

from hispec_sim.acceptance.counting import Work, count_forwards
from hispec_sim.cascade import Bonus
from hispec_sim.errors import InputError
from hispec_sim.execute.generate import Settings, generate
from hispec_sim.execute.record import DeviceForward, Record
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.llama import Llama
from hispec_sim.networks import NetworkSpec

EXITS, DEPTH, VOCABULARY = [1, 2, 4], 6, 24
PROMPT_TOKENS, NEW_TOKENS = 8, 24


def tiny() -> Llama:
    torch.manual_seed(3)
    shape = NetworkSpec("tiny", DEPTH, 16, 2, 2, 8, 24, VOCABULARY, True)
    network = Llama(LlamaConfig(shape, max_positions=64)).eval().requires_grad_(False)
    for layer in network.layers:  # layers that change little, so that exits agree now and then
        layer.output.weight *= 0.4
        layer.down.weight *= 0.4
    for parameter in network.parameters():
        if parameter.ndim == 2 and parameter is not network.embedding.weight:
            parameter *= 3
    return network


def prompts(n: int) -> list[list[int]]:
    return np.random.default_rng(5).integers(0, VOCABULARY, (n, PROMPT_TOKENS)).tolist()


@pytest.mark.parametrize("exit_layer", EXITS)
@pytest.mark.parametrize("bonus", list(Bonus))
@pytest.mark.parametrize("draft_length", [1, 3, 6])
def test_counted_forwards_are_those_of_real_decoding(exit_layer: int, bonus: Bonus, draft_length: int) -> None:
    network, given = tiny(), prompts(3)
    trace = record_trace(network, np.array(given), NEW_TOKENS, EXITS, Noise(3, VOCABULARY, 0.0, 0))
    assert 0 < trace.agreement(EXITS.index(exit_layer), -1) < 1
    cascade = build([(exit_layer, 0), (DEPTH, draft_length)], bonus)
    real: Counter[Work] = Counter()
    for prompt in given:
        for forward in generate(cascade, {NETWORK: network}, prompt, Settings(NEW_TOKENS)).record.device:
            real[Work(NETWORK, forward.first_layer, forward.last_layer, forward.tokens, forward.logits)] += 1
    assert count_forwards(cascade, trace, range(3), seed=0, prompt_tokens=PROMPT_TOKENS) == real


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_everything_on_a_tiny_network(temperature: float) -> None:
    plan = hierarchy_gain.Plan(**{**hierarchy_gain.QUICK, "temperature": temperature, "new_tokens": NEW_TOKENS})
    given = prompts(6)
    bench = hierarchy_gain.Bench(tiny(), EXITS, Split(given[:4], given[4:], ""), plan)
    winners, tuning = hierarchy_gain.tune(bench)
    assert [len(winner.cascade.levels) for winner in winners] == [2, 3]
    assert tuning["HiSpec"]["winner"] in [row["cascade"] for row in tuning["HiSpec"]["shortlist"]]
    contenders = [gain_report.Contender("autoregressive", build([(DEPTH, 0)])), *winners]
    rounds = hierarchy_gain.measure(bench, contenders, hierarchy_gain.Quietness())
    found = gain_report.compare(contenders, rounds, seed=0)
    assert rounds == 1
    assert set(found["ratios"]) == {
        "single-layer over autoregressive", "HiSpec over autoregressive", "HiSpec over single-layer",
    }  # fmt: skip
    # both kinds: two candidates on one prompt, the better on four; then both winners on two test prompts
    assert bench.checked == (0 if temperature else 2 * (2 + 4) + 2 * 2)
    assert not bench.not_lossless
    json.dumps(tuning)
    gain_report.print_comparison(contenders, found, rounds)


def test_a_sampled_text_is_read_with_the_luck_it_was_written_with() -> None:
    logits = torch.randn(4, 3, VOCABULARY, generator=torch.Generator().manual_seed(1))
    writing = Noise(3, VOCABULARY, 0.7, seed=2)
    written = np.stack([writing.next_choice(step) for step in logits], axis=1)
    reading = Noise(3, VOCABULARY, 0.7, seed=2)
    for text in range(3):
        ours, others = reading.choices(text, [logits[:, text], logits[:, text] * 0.0])
        assert (ours == written[text]).all()
        assert (others != ours).any()


def test_sampled_tokens_follow_their_distribution() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    noise = Noise(4000, 3, 0.5, seed=1)
    drawn = noise.next_choice((0.5 * probabilities.log()).expand(4000, 3))
    assert np.bincount(drawn, minlength=3) / 4000 == pytest.approx(probabilities.numpy(), abs=0.03)


def test_prices_are_medians_where_measured_and_a_fit_elsewhere() -> None:
    def ms(layers: int, tokens: int, logits: int) -> float:
        return (0.1 if tokens == 1 else 0.2) + layers * (0.05 + 0.01 * tokens) + 0.02 * logits

    record = Record(wall_ms=0.0)
    for layers in (2, 5, 10):
        for tokens in (1, 2, 4, 8):
            for logits in (0, 1):
                duration_ms = ms(layers, tokens, logits)
                record.device += [DeviceForward(NETWORK, 0, layers, 1, tokens, logits, None, duration_ms)] * 8
    record.wall_ms = record.forward_ms + 0.5 * len(record.device)
    prices = measure_prices([record])
    assert prices.between_ms == pytest.approx(0.5)
    assert prices.of(Work(NETWORK, 0, 5, 4, 1)) == pytest.approx(0.5 + ms(5, 4, 1))
    assert prices.of(Work(NETWORK, 0, 7, 6, 1)) == pytest.approx(0.5 + ms(7, 6, 1))
    assert prices.total(Counter({Work(NETWORK, 0, 5, 4, 1): 3})) == pytest.approx(3 * (0.5 + ms(5, 4, 1)))


def test_documents_serve_one_side_only() -> None:
    stream = np.concatenate([[0, *[number] * 30] for number in range(1, 11)]).astype(np.uint16)
    split = split_groups(windows_of(documents_of(stream), 8), n_tuning=9, n_test=6, seed=1)
    assert (len(split.tuning), len(split.test)) == (9, 6)
    assert not {prompt[0] for prompt in split.tuning} & {prompt[0] for prompt in split.test}
    assert all(len(prompt) == 8 and len(set(prompt)) == 1 for prompt in split.tuning + split.test)
    with pytest.raises(InputError, match="30 and 30 are needed"):
        split_groups(windows_of(documents_of(stream), 8), n_tuning=30, n_test=30, seed=1)


def test_topics_are_kept_apart_where_that_leaves_enough(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"{topic}{i} of some length", "topic": topic} for topic in "abcd" for i in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    apart = split_file(path, lambda text: list(text.encode()), 8, 4, 4, seed=0)
    assert not {prompt[0] for prompt in apart.tuning} & {prompt[0] for prompt in apart.test}
    assert split_file(path, lambda text: list(text.encode()), 8, 7, 5, seed=0).disjoint == "different lines of one file"
    path.write_text("no JSON")
    with pytest.raises(InputError, match="cannot be read as lines"):
        split_file(path, lambda text: list(text.encode()), 8, 1, 1, seed=0)


def test_the_interval_holds_the_geometric_mean() -> None:
    mean, low, high = gain_report.geometric_mean(np.array([0.5, 2.0, 1.0, 1.0]), seed=0)
    assert mean == pytest.approx(1.0)
    assert 0.5 < low < mean < high < 2.0
    assert gain_report.geometric_mean(np.full(5, 1.25), seed=0) == pytest.approx((1.25, 1.25, 1.25))
