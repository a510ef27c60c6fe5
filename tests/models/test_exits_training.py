"""Heads learn from the text that the network writes, and an interrupted run ends as an uninterrupted one."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from hispec_sim.errors import InputError
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.distil import states
from hispec_sim.models.distil.evaluate import agreement
from hispec_sim.models.distil.loop import (
    BATCH,
    LEARNING_RATE,
    Candidates,
    HeadTrainer,
    batch_of,
    divergence,
    draw_candidates,
    order_of_pass,
)
from hispec_sim.models.distil.prompts import BuiltIn, FromFile, excerpts, read_prompts, split_topics
from hispec_sim.models.distil.run import HEADS, Settings, Stand, read_settings, run, start
from hispec_sim.models.distil.states import KeptStates, states_at
from hispec_sim.models.distil.teacher import Teacher, chunk_path, chunks_there, load_chunk
from hispec_sim.models.distil.write import fast_for_writing
from hispec_sim.models.exits import Kind
from hispec_sim.models.files.exit_files import CARD, WEIGHTS, load_heads, read_card
from hispec_sim.models.llama import Llama
from hispec_sim.models.train.corpus import Corpus, Document
from hispec_sim.networks import NetworkSpec

torch.set_num_threads(1)
STOP = 3


@cache
def network() -> Llama:
    """Six random layers whose exits agree with the end at one position in four; what is missing can be learned."""
    torch.manual_seed(3)
    shape = NetworkSpec("tiny", 6, 32, 4, 2, 8, 48, 40, True)
    made = Llama(LlamaConfig(shape, max_positions=64)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3 if "output" in name or "down" in name else 0.15)
        made.embedding.weight.normal_(std=0.35)
    return made.requires_grad_(False)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer slots than sequences, as in a real run."""
    monkeypatch.setattr("hispec_sim.models.distil.teacher.SEQUENCES", {False: 16, True: 16})
    monkeypatch.setattr("hispec_sim.models.distil.write.SLOTS", 6)


def encode(text: str) -> list[int]:
    return [ord(letter) % 40 for letter in text[:: max(1, len(text) // 20)]]


def teacher(folder: Path, seed: int = 0) -> Teacher:
    return Teacher(network(), BuiltIn(seed), encode, {STOP}, folder, seed)


def test_text_is_the_network_s_own_and_stored_whole(tmp_path: Path) -> None:
    """Greedy sequences follow the first choices, all carry the log-probabilities of the uncached network, and a chunk
    written again is the same."""
    assert teacher(tmp_path).add_chunk(0, held_out=False)
    sequences = load_chunk(chunk_path(tmp_path, 0, held_out=False))
    assert {each.greedy for each in sequences} == {True, False}
    assert len({each.prompt_tokens for each in sequences}) > 3
    assert len({each.new_tokens for each in sequences}) > 1
    for each in sequences:
        with torch.inference_mode():
            logits = network()(torch.tensor([each.tokens[:-1]]))[0, each.prompt_tokens - 1 :]
        expected = torch.log_softmax(logits, dim=-1).gather(-1, each.choices.long())
        torch.testing.assert_close(each.log_probs.float(), expected, rtol=2e-3, atol=2e-3)
        new = each.tokens[each.prompt_tokens :]
        assert STOP not in new[:-1]
        assert len(each.tokens) <= 64
        if each.greedy:
            assert new[8:] == each.choices[8:, 0].tolist()
    first = chunk_path(tmp_path, 0, held_out=False)
    assert teacher(tmp_path / "again").add_chunk(0, held_out=False)
    again = load_chunk(chunk_path(tmp_path / "again", 0, held_out=False))
    assert [each.tokens for each in again] == [each.tokens for each in sequences]
    assert not teacher(tmp_path).add_chunk(1, held_out=False, keep_on=lambda: False)
    assert chunks_there(tmp_path, held_out=False) == [first]
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(InputError, match=r"00000\.safetensors is damaged .* delete it and resume"):
        load_chunk(first)


def test_only_wide_networks_are_rounded_for_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow one is written with as it is, whatever the processor can do."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert fast_for_writing(network()) is network()
    monkeypatch.setattr("hispec_sim.models.distil.write.WIDE", 32)
    rounded = fast_for_writing(network())
    assert rounded is not network()
    assert rounded.embedding.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(("kind", "gain"), [(Kind.BLOCK, 0.25), (Kind.ADAPTER, 0.15), (Kind.LM_HEAD, 0.15)])
def test_training_raises_agreement(tmp_path: Path, kind: Kind, gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On topics that were held out, well above the final norm and LM head alone; and the network stays as it is."""
    monkeypatch.setitem(LEARNING_RATE, kind, 1e-2)  # a tiny network takes larger strides
    writer = teacher(tmp_path)
    for number in range(8):
        writer.add_chunk(number, held_out=False)
    writer.add_chunk(0, held_out=True)
    text = [each for path in chunks_there(tmp_path, held_out=False) for each in load_chunk(path)]
    held_out = load_chunk(chunk_path(tmp_path, 0, held_out=True))
    assert not {each.topic for each in text} & {each.topic for each in held_out}
    before = {name: parameter.clone() for name, parameter in network().named_parameters()}
    trainer = HeadTrainer(network(), [2, 4], kind, text, steps=120, seed=0)
    first = trainer.train_step()
    while trainer.step < trainer.steps:
        last = trainer.train_step()
    for found in agreement(network(), trainer.heads, held_out):
        assert last[found.exit_layer] < 0.5 * first[found.exit_layer]
        assert found.share > found.untrained + gain, found
        assert 0 < found.error < 0.1
        assert set(found.by_topic) == {each.topic for each in held_out}
    assert all(torch.equal(before[name], parameter) for name, parameter in network().named_parameters())


def test_the_lower_layers_run_once_for_each_sequence_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever company a sequence comes again, its states are the same, those of the layers, rounded, and the layers
    stay still; what found no room is run anew."""
    runs: list[int] = []
    monkeypatch.setattr(states, "states_at", lambda *given: runs.append(1) or states_at(*given))
    rng = np.random.default_rng(0)
    text = [torch.from_numpy(rng.integers(0, 40, n)) for n in (9, 5, 7, 3)]

    def look(kept: KeptStates, *numbers: int) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            found = kept.of(numbers, [text[number] for number in numbers])
        for row, number in enumerate(numbers):
            with torch.autocast("cpu", torch.bfloat16):
                alone = states_at(network(), text[number][None], [2, 4])
            for padded, expected in zip(found, alone, strict=True):
                assert torch.equal(padded[row, : len(text[number])], expected[0].bfloat16().float())
                assert not padded[row, len(text[number]) :].any()

    kept = KeptStates(network(), [2, 4], torch.bfloat16)
    for numbers, ran in (((0, 1), 2), ((2, 3), 4), ((3, 0), 4), ((1,), 4), ((2, 1, 0, 3), 4)):
        look(kept, *numbers)
        assert len(runs) == ran
    short = KeptStates(network(), [2, 4], torch.bfloat16, room_bytes=14 * 2 * 32 * 2)  # the first two alone
    for numbers, ran in (((0, 1, 2), 7), ((1, 0), 7), ((2, 0), 8)):
        look(short, *numbers)
        assert len(runs) == ran


def all_of(vocab_size: int) -> Candidates:
    return Candidates(torch.arange(vocab_size), torch.zeros(vocab_size))


def test_divergence_is_none_from_itself() -> None:
    """And what it is otherwise, by hand: choices of .8 and .2 against a uniform third of four tokens."""
    uniform = torch.zeros(1, 4)
    theirs = torch.tensor([[0.8, 0.2]]).log()
    expected = 0.8 * np.log(0.8 / 0.25) + 0.2 * np.log(0.2 / 0.25)
    found = divergence(uniform, all_of(4), torch.tensor([[1, 2]]), theirs)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    logits = torch.tensor([[0.1, 2.0, -1.0]])
    best = torch.log_softmax(logits, -1).topk(3)
    assert divergence(logits, all_of(3), best.indices, best.values).item() == pytest.approx(0, abs=1e-6)


def test_candidates_stand_for_the_vocabulary() -> None:
    """All that was chosen is among them, the rest is sampled without bias: on average over draws the sum of
    exponentials is the whole vocabulary's; where little would be left out, nothing is."""
    generator = torch.Generator().manual_seed(0)
    logits, choices = torch.randn(3, 200, generator=generator), torch.tensor([[5, 9], [9, 150], [0, 199]])
    sums = []
    for seed in range(400):
        drawn = draw_candidates(choices, 200, 20, np.random.default_rng(seed))
        assert drawn.token_ids.tolist() == sorted(set(drawn.token_ids.tolist()))
        assert set(choices.flatten().tolist()) < set(drawn.token_ids.tolist())
        assert len(drawn.token_ids) == 5 + 20
        sums.append((logits[:, drawn.token_ids] + drawn.log_weights).exp().sum(dim=-1))
    found = torch.stack(sums)
    z = (found.mean(dim=0) - logits.exp().sum(dim=-1)) / (found.std(dim=0) / 20)
    assert z.abs().max() < 4
    assert len(draw_candidates(choices, 200, 100, np.random.default_rng(0)).token_ids) == 200


def test_a_pass_sees_every_sequence_once_and_pads_little() -> None:
    lengths = np.random.default_rng(0).integers(30, 300, 517)
    orders = [order_of_pass(lengths, np.random.default_rng(seed)) for seed in range(2)]
    assert all(sorted(order) == list(range(517)) for order in orders)
    assert not np.array_equal(*orders)
    batches = lengths[orders[0][:512]].reshape(-1, BATCH)
    padding = 1 - batches.sum() / (batches.max(axis=1) * BATCH).sum()
    assert padding < 0.1
    assert abs(np.corrcoef(np.arange(len(batches)), batches.mean(axis=1))[0, 1]) < 0.3, "short and long ones alternate"


def test_batches_are_padded_at_their_ends(tmp_path: Path) -> None:
    """Each new token is predicted from the position before it."""
    teacher(tmp_path).add_chunk(0, held_out=False)
    sequences = load_chunk(chunk_path(tmp_path, 0, held_out=False))[:3]
    batch = batch_of(sequences, torch.device("cpu"))
    assert len(batch.rows[0]) == len(batch.choices) == sum(each.new_tokens for each in sequences)
    row = 0
    for i, each in enumerate(sequences):
        for place in range(each.prompt_tokens - 1, len(each.tokens) - 1):
            assert (batch.rows[0][row], batch.rows[1][row]) == (i, place)
            assert batch.tokens[i, place] == each.tokens[place]
            row += 1


def test_resumed_run_gives_the_same_heads(tmp_path: Path) -> None:
    """Interrupted by Ctrl-C in the text and in training; the files are the same to the byte."""
    settings = Settings("tiny", (2, 4), Kind.BLOCK, tokens=1500, command="as given")
    for name in ("whole", "parts"):
        start(tmp_path / name, settings, [])
    whole = run(tmp_path / "whole", network(), encode, {STOP})
    assert whole is not None
    stands: list[Stand] = []

    def break_at(what: str, done: int) -> None:
        def show(stand: Stand) -> None:
            stands.append(stand)
            if stand.what == what and stand.done >= done:
                os.kill(os.getpid(), signal.SIGINT)

        assert run(tmp_path / "parts", network(), encode, {STOP}, show=show) is None

    break_at("text", 900)
    assert not (tmp_path / "parts" / HEADS).exists()
    assert 0 < len(chunks_there(tmp_path / "parts", held_out=False)) < 4
    break_at("training", 5)
    break_at("training", 9)
    parts = run(tmp_path / "parts", network(), encode, {STOP}, show=stands.append)
    assert parts == whole
    for file in (WEIGHTS, CARD):
        assert (tmp_path / "parts" / HEADS / file).read_bytes() == (tmp_path / "whole" / HEADS / file).read_bytes()
    assert all(stand.done <= stand.total and stand.tokens_per_s > 0 and stand.left_s >= 0 for stand in stands)
    provenance = read_card(tmp_path / "parts" / HEADS).provenance
    assert provenance["command"] == "as given"
    assert provenance["tokens"] >= 1500
    assert [each["exit_layer"] for each in provenance["agreement"]] == [2, 4]
    assert set(load_heads(tmp_path / "parts" / HEADS, network())) == {2, 4}
    (tmp_path / "parts" / "training" / "00001.safetensors").unlink()
    assert run(tmp_path / "parts", network(), encode, {STOP}) == whole, "text that was lost is written again"


def test_a_budget_is_kept(tmp_path: Path) -> None:
    """Text ends after half of it, and steps are as many as fit."""
    start(tmp_path / "run", Settings("tiny", (2,), Kind.BLOCK, tokens=10**8, budget_s=1.5), [])
    assert run(tmp_path / "run", network(), encode, {STOP}) is not None
    settings = read_settings(tmp_path / "run")
    assert settings.chunks is not None
    assert settings.chunks < 100
    assert settings.steps is not None
    assert settings.steps < 1000


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('{"prompt": "a", "topic": "x"}\n{"prompt": 3}', 'line 2 must be an object with a text: {"prompt"'),
        ('{"prompt": "a"}\n\nnonsense', "line 3 is not JSON"),
        ('["a"]', "line 1 must be"),
        ('{"prompt": " "}', "line 1 must be"),
        ('{"prompt": "a", "topic": 3}', "line 1: topic must be a text"),
        ('{"prompt": "a", "topic": "x"}\n{"prompt": "b", "topic": "x"}', "at least 2 are needed"),
        ("", "at least 2 are needed"),
        ("\udcff", "cannot be read"),
    ],
)
def test_wrong_prompt_files(tmp_path: Path, lines: str, expected: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(lines.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as error:
        read_prompts(path)
    assert expected in str(error.value)


def test_excerpts_are_of_training_text_and_know_their_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """From random places, the longer the document the more; nothing of what is held out; the seed decides."""
    monkeypatch.setattr("hispec_sim.models.distil.prompts.EXCERPTS", 300)
    long, short = "".join(map(str, range(900))), "".join(map(str, range(2000, 2100)))
    corpus = Corpus(
        "test",
        (Document("models/owl2/a.py", long), Document("models/tit/b.py", short), Document("models/tit/c.py", "tiny")),
        (Document("models/held/a.py", "held out " * 99),),
    )
    found = excerpts(corpus, 3)
    assert {prompt.topic for prompt in found} == {"owl", "tit"}
    assert all(prompt.text in (long if prompt.topic == "owl" else short) for prompt in found)
    assert {len(prompt.text) for prompt in found} == {240}
    of_long = [prompt.text for prompt in found if prompt.topic == "owl"]
    assert len(of_long) > 3 * (len(found) - len(of_long))
    assert len(set(of_long)) > len(of_long) / 2
    assert found == excerpts(corpus, 3) != excerpts(corpus, 4)


def test_topics_are_held_out(tmp_path: Path) -> None:
    """No prompt of one side is about a topic of the other, built in or given."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "p{i}", "topic": "t{i % 5}"}}\n' for i in range(20)))
    for source in (BuiltIn(1), FromFile(read_prompts(path), 1)):
        rng = np.random.default_rng(0)
        drawn = {side: [source.draw(rng, held_out=side) for _ in range(100)] for side in (False, True)}
        topics = {side: {prompt.topic for prompt in prompts} for side, prompts in drawn.items()}
        assert not topics[False] & topics[True]
        assert len({len(prompt.text) for prompt in drawn[False]}) > 1 or isinstance(source, FromFile)
        for topic in topics[True] - {"t0", "t1", "t2", "t3", "t4"}:
            assert not any(topic in prompt.text for prompt in drawn[False])
    assert [len(side) for side in split_topics(["a", "b"], 0)] == [1, 1]
