"""Recording tiny networks: equal to direct computation, resumable to the byte, and replayed as the executor decodes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hispec_sim.acceptance.replay import ReplaySource
from hispec_sim.acceptance.trace import UNREAD, AgreementTrace, Exit, OffPath, Prompt, pair_columns
from hispec_sim.acceptance.trace_file import load_trace
from hispec_sim.cascade import Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Greedy, Sampling
from hispec_sim.execute.decoder import Decoder
from hispec_sim.models.exits import AdapterHead, BlockHead, LmHead, attach
from hispec_sim.models.picking import distributions_of
from hispec_sim.profiler import record as recording
from hispec_sim.profiler.agreement import Plan, record_batch
from hispec_sim.step_graph import Kind, Node, StepGraph

sys.path.append(str(Path(__file__).parents[1] / "execute"))
from tiny_networks import VOCABULARY, autoregressive, networks, random_cascade

torch.set_num_threads(1)
NEW = 24
EXITS = (Exit("draft", 1), Exit("draft", 2), Exit("big", 1), Exit("big", 2), Exit("big", 3), Exit("big", 4))
PLAN = Plan(EXITS, EXITS[:-1], NEW, places=NEW, tokens=24)
SAMPLED = dataclasses.replace(PLAN, temperature=0.9, top_p=0.95, places=6)
SHAPES = {name: network.config.shape for name, network in networks().items()}


def some_prompts(seed: int, n: int) -> tuple[list[list[int]], list[Prompt]]:
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, VOCABULARY, int(rng.integers(2, 12))).tolist() for _ in range(n)]
    return prompts, [Prompt(f"p{i}", f"g{i}", "0" * 64, len(p)) for i, p in enumerate(prompts)]


def greedy_texts(prompts: list[list[int]]) -> list[list[int]]:
    decoder = Decoder(autoregressive(), networks(), slots=1, max_tokens=60)
    return decoder.decode(prompts, NEW, new_chooser=lambda index: Greedy())[0]


@pytest.fixture
def with_heads() -> Iterator[None]:
    """Random heads at the exits of the target."""
    network = networks()["big"]
    torch.manual_seed(3)
    heads = {1: AdapterHead(network.config), 2: BlockHead(network.config), 3: LmHead(network.config)}
    torch.nn.init.normal_(heads[1].linear.weight, std=0.1)
    attach(network, heads)
    yield
    attach(network, {})


def first_choice(exit_: Exit, text: list[int]) -> int:
    """Without any cache."""
    return int(networks()[exit_.network](torch.tensor([text]), exit_.exit_layer)[0, -1].argmax())


def check_against_direct_computation(trace: AgreementTrace, prompts: list[list[int]]) -> None:
    """Every label, on the path and off it, from whole sequences without any cache."""
    texts = greedy_texts(prompts)
    with torch.inference_mode():
        for s, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            for position in range(NEW):
                said = [first_choice(e, [*prompt, *text[:position]]) for e in EXITS]
                labels = trace.labels[trace.starts[s] + position]
                for i, one in enumerate(said):
                    assert [one == other for other in said] == [labels[i] == label for label in labels]
        assert len(trace.off_path.at) > 20
        chosen = np.random.default_rng(0).permutation(len(trace.off_path.at))[:20]
        for (s, position, column), rows in zip(trace.off_path.at[chosen], trace.off_path.rows[chosen], strict=True):
            text = [*prompts[s], *texts[s][:position]]
            wrong = first_choice(EXITS[column], text)
            assert wrong != texts[s][position]
            text.append(wrong)
            for labels in rows:
                said = [first_choice(e, text) for e in EXITS[: column + 1]]
                assert [label == 0 for label in labels[: column + 1]] == [one == said[-1] for one in said]
                assert (labels[column + 1 :] == UNREAD).all()
                text.append(said[-1])


def test_labels_are_what_direct_computation_gives() -> None:
    prompts, about = some_prompts(1, 2)
    check_against_direct_computation(record_batch(networks(), PLAN, prompts, about, 0, ()), prompts)


def test_exits_are_read_through_their_heads(with_heads: None) -> None:
    prompts, about = some_prompts(2, 2)
    trace = record_batch(networks(), PLAN, prompts, about, 0, ())
    check_against_direct_computation(trace, prompts)
    attach(networks()["big"], {})
    plain = record_batch(networks(), PLAN, prompts, about, 0, ())
    assert not np.array_equal(trace.labels, plain.labels), "the heads make a difference"


def replayed(
    cascade: Cascade, source: ReplaySource, sequence: int, seed: int = 0
) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Verifications (level, run, matched), and what each target pass commits, behind the first token."""
    graph, sampler = StepGraph(cascade), source.sampler(sequence, np.random.default_rng(seed), first=1)
    room = source.output_tokens(sequence) - 1
    node: Node | None = graph.start(room)
    verified, commits = [], []
    while node is not None:
        matched = 0
        if node.kind is Kind.VERIFY:
            matched = sampler.verify(node)
            verified.append((node.level, node.run, matched))
        elif node.kind is Kind.DRAFT:
            sampler.draft(node)
        move = graph.follow(node, matched)
        node = move.target
        if move.committed:
            commits.append(move.committed)
            room -= move.committed
            node = graph.with_room(node, room) if node is not None else None
    return verified, commits


def executed(cascade: Cascade, prompt: list[int]) -> tuple[list[tuple[int, int, int]], list[int]]:
    """The same of the executor, whose first target pass (the prefill) commits one token."""
    decoder = Decoder(cascade, networks(), slots=1, max_tokens=60)
    commits: list[int] = []
    _, record = decoder.decode(
        [prompt], NEW, new_chooser=lambda index: Greedy(), on_commit=lambda _, tokens: commits.append(len(tokens))
    )
    return record.sequences[0].verified, commits[1:]


def test_replay_is_what_the_executor_does() -> None:
    """Fifteen random cascades."""
    check_random_cascades(seed=7, cases=15)


@pytest.mark.slow
def test_replay_is_what_the_executor_does_always() -> None:
    """Two hundred."""
    check_random_cascades(seed=8, cases=200)


def check_random_cascades(seed: int, cases: int) -> None:
    """With all wrong tokens followed far enough, every verification of every level of cascades up to three levels; for
    four levels, what each target pass commits; and without any continuation recorded, that too."""
    prompts, about = some_prompts(5, 2)
    trace = record_batch(networks(), PLAN, prompts, about, 0, ())
    rng, seen = np.random.default_rng(seed), set()
    few = trace.off_path.at[:, 1] % 7 == 0
    thin = dataclasses.replace(trace, off_path=OffPath(trace.off_path.at[few], trace.off_path.rows[few]))
    for _ in range(cases):
        cascade = random_cascade(rng, shortlists=False, draft_first=True)
        if cascade.target == 0:
            continue
        for sequence, prompt in enumerate(prompts):
            ours, theirs = replayed(cascade, ReplaySource(trace, cascade, SHAPES), sequence), executed(cascade, prompt)
            assert ours[1] == theirs[1]
            if cascade.target < 3:
                assert ours[0] == theirs[0]
            assert replayed(cascade, ReplaySource(thin, cascade, SHAPES), sequence)[1] == theirs[1]
            seen |= {(cascade.target, *verified) for verified in ours[0]}
    assert len(seen) > 3 * cases // 2


def test_a_shortlist_cannot_be_replayed() -> None:
    """Exits were read out in full, and would agree more often than a shortlist does."""
    prompts, about = some_prompts(5, 1)
    trace = record_batch(networks(), PLAN, prompts, about, 0, ())
    cascade = Cascade((Level("big", 1, shortlist=12), Level("big", 4, 2)))
    with pytest.raises(InputError, match="cannot tell what a shortlist of 12 tokens would predict"):
        ReplaySource(trace, cascade, SHAPES)


def test_stop_tokens_end_the_record() -> None:
    prompts, about = some_prompts(8, 3)
    stop = {greedy_texts(prompts)[1][5]}
    trace = record_batch(networks(), PLAN, prompts, about, 0, stop)
    expected = [next((i + 1 for i, t in enumerate(text) if t in stop), NEW) for text in greedy_texts(prompts)]
    assert trace.lengths.tolist() == expected
    assert min(expected) < NEW


def test_sampled_probabilities_are_exact() -> None:
    """Against distributions of the same rows, computed one by one."""
    prompts, about = some_prompts(3, 1)
    texts: list[int] = []
    plan = dataclasses.replace(SAMPLED, places=0)
    trace = record_batch(networks(), plan, prompts, about, 0, (), lambda n: texts.append(n))
    assert sum(texts) == NEW
    assert trace.sampling is not None
    # The text is not in the trace; it is found again as what the log-probabilities of all exits stand for.
    text, pairs, lower = list(prompts[0]), pair_columns(6), pair_columns(5)
    for row in range(NEW):
        with torch.inference_mode():
            p = torch.cat(
                [
                    distributions_of(
                        networks()[e.network](torch.tensor([text]), e.exit_layer)[0, -1:],
                        SAMPLED.temperature,
                        SAMPLED.top_p,
                    )
                    for e in EXITS
                ]
            )
        p = p.double().numpy()
        with np.errstate(divide="ignore"):
            near = np.isclose(np.log(p), trace.sampling.log_prob[row][:, None].astype(float), atol=5e-3).all(0)
        assert near.sum() == 1
        text.append(int(near.argmax()))
        for (i, j), column in pairs.items():
            taken = np.minimum(p[i], p[j])
            assert trace.sampling.acceptance[row, column] / 255 == pytest.approx(taken.sum(), abs=0.003)
            if j < 5:
                kept = np.minimum(1, np.divide(p[5], p[j], out=np.ones_like(p[j]), where=p[j] > 0))
                rejects = (p[j] * (1 - kept)).sum()
                if rejects > 1e-3:
                    expected = (taken * (1 - kept)).sum() / rejects
                    assert trace.sampling.confirmed[row, lower[i, j]] / 255 == pytest.approx(expected, abs=0.004)


@pytest.mark.parametrize("levels", [(3, 5), (0, 3, 5), (2, 3, 5)])
def test_sampled_replay_has_the_executors_rates(levels: tuple[int, ...]) -> None:
    """Matched per verified token at each level, and tokens per target pass, within four standard errors."""
    from hispec_sim.cascade import Level

    cascade = Cascade(tuple(Level(*EXITS[c], verify_period=(0, 2, 4)[k]) for k, c in enumerate(levels)))
    prompts, about = some_prompts(4, 40)
    trace = record_batch(networks(), SAMPLED, prompts, about, 0, ())
    source = ReplaySource(trace, cascade, SHAPES)
    decoder = Decoder(cascade, networks(), slots=40, max_tokens=60)
    runs: dict[str, list[list[tuple[int, int, int]]]] = {"real": [], "replayed": []}
    for seed in range(3):
        _, record = decoder.decode(
            prompts, NEW,
            new_chooser=lambda i, seed=seed: Sampling(0.9, 0.95, np.random.default_rng(1000 * seed + i)),
        )  # fmt: skip
        runs["real"] += [sequence.verified for sequence in record.sequences]
        runs["replayed"] += [replayed(cascade, source, s, seed)[0] for s in range(40)]
    for level in range(1, len(levels)):
        means, errors = [], []
        for each in runs.values():
            counts = np.array(
                [[sum(m for k, _, m in one if k == level), sum(r for k, r, _ in one if k == level)] for one in each]
            )
            ratio = counts[:, 0].sum() / counts[:, 1].sum()
            means.append(ratio)
            errors.append(np.sqrt(((counts[:, 0] - ratio * counts[:, 1]) ** 2).sum()) / counts[:, 1].sum())
        assert abs(means[0] - means[1]) < 4 * np.hypot(*errors)
        assert 0.1 < means[0] < 0.95


def test_interrupted_recordings_resume_to_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second batch; the first is not recorded again."""
    prompts, about = some_prompts(6, 5)
    plan = dataclasses.replace(PLAN, places=2, tokens=3, max_new_tokens=8)

    def run(out: Path) -> None:
        recording.record(out, networks(), plan, prompts, about, {"command": "test"}, batch=2)

    recording.start(tmp_path / "whole", {}, force=False)
    run(tmp_path / "whole")
    real, calls = recording.record_batch, []

    def interrupted(*arguments: object) -> AgreementTrace:
        calls.append(arguments[4])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    recording.start(tmp_path / "cut", {"seed": 1}, force=False)
    with monkeypatch.context() as patch:
        patch.setattr(recording, "record_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
        assert not (tmp_path / "cut").exists()
        assert recording.read_settings(tmp_path / "cut") == {"seed": 1}
        with pytest.raises(InputError, match="--resume"):
            recording.start(tmp_path / "cut", {}, force=False)
        run(tmp_path / "cut")
    assert calls == [0, 2, 2, 4]
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]
    assert load_trace(tmp_path / "cut").n_sequences == 5
    with pytest.raises(InputError, match="exists"):
        recording.start(tmp_path / "cut", {}, force=False)


def test_recordings_of_other_prompts_do_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of prompts of the same number and length, too, and where some are no longer asked for."""
    prompts, about = some_prompts(6, 4)
    out, plan = tmp_path / "cut", dataclasses.replace(PLAN, places=0, max_new_tokens=4)
    recording.start(out, {}, force=False)
    real = recording.record_batch

    def interrupted(*arguments: object) -> AgreementTrace:
        if arguments[4] == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(recording, "record_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recording.record(out, networks(), plan, prompts, about, {}, batch=2)
    others = [about[0], about[1]._replace(sha256="1" * 64), *about[2:]]
    for asked in (others, about[:1]):
        words = r"cut\.parts was begun on other prompts .*delete the folder, or record anew into another --out"
        with pytest.raises(InputError, match=words):
            recording.record(out, networks(), plan, prompts[: len(asked)], asked, {}, batch=2)
    assert recording.record(out, networks(), plan, prompts, about, {}, batch=2).prompts == tuple(about)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", r"damaged \(Expecting"),
        ("[]", "holds no settings"),
        ("3", "holds no settings"),
        ('{"seed": 1}', r"it lacks model, batch\); delete its folder and record anew"),
    ],
)
def test_settings_that_say_too_little(tmp_path: Path, text: str, words: str) -> None:
    recording.start(tmp_path / "t", {"model": "big"}, force=False)
    (recording.parts_folder(tmp_path / "t") / recording.SETTINGS).write_text(text)
    with pytest.raises(InputError, match=words):
        recording.read_settings(tmp_path / "t", ["model", "batch", "seed"])


def test_prompts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, max_new_tokens=150)
    for prompt, words in ([1] * 20, "prompt long has 20 tokens"), ([], "prompt long has no tokens"):
        with pytest.raises(InputError, match=words):
            recording.record(tmp_path / "t", networks(), plan, [prompt], [Prompt("long", "g", "0", 1)], {}, batch=1)
