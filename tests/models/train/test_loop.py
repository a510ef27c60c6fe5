"""Training learns, and an interrupted run becomes the uninterrupted one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import CORPUS, tiny_recipe, tiny_run

from hispec_sim.errors import InputError
from hispec_sim.models.llama import Llama
from hispec_sim.models.train.loop import Trainer
from hispec_sim.models.train.losses import divergence
from hispec_sim.models.train.probe import exit_logits
from hispec_sim.models.train.reference import start
from hispec_sim.models.train.run import MARGIN, Progress, read_curve, steps_within, train
from hispec_sim.models.train.run_folder import TRAINING, read_stream
from hispec_sim.models.train.span import Speed, TrainingSpan, can_compile, new_network

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")


def weights(network: Llama) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def assert_identical(one: Trainer, other: Trainer) -> None:
    """Bit for bit: weights, and the optimizer's moments."""
    for name, weight in weights(one.network).items():
        assert torch.equal(weight, weights(other.network)[name]), name
    for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True):
        for key, value in one.optimizer.state[a].items():
            assert torch.equal(value, other.optimizer.state[b][key]), key


def test_a_tiny_network_learns_a_few_lines_at_every_exit(tmp_path: Path) -> None:
    """From above 5 nats to almost knowing them by heart, at the full depth and at each exit."""
    train(tiny_run(tmp_path / "run", 150), probe_every=10)
    curve = read_curve(tmp_path / "run")
    first, last = curve[0]["loss"], curve[-1]["loss"]
    assert set(last) == {"1", "2", "3", "4", "6"}
    for exit_layer in last:
        assert last[exit_layer] < 0.45 * first[exit_layer]
    assert last["6"] < 0.7
    assert curve[-1]["agreement"]["4"] > 0.9
    assert [entry["step"] for entry in curve] == list(range(10, 151, 10))


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Twelve steps at once, or seven, a new process' worth of objects, and five."""
    whole = train(tiny_run(tmp_path / "whole"), probe_every=3)
    train(tiny_run(tmp_path / "parts"), probe_every=3, stop_after=7)
    parts = train(tmp_path / "parts", probe_every=3)
    assert parts.step == whole.step == 12
    assert_identical(whole, parts)
    one, other = read_curve(tmp_path / "whole"), read_curve(tmp_path / "parts")
    assert [e["loss"] for e in one] == [e["loss"] for e in other]


def test_control_c_finishes_the_step_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    """The signal comes in the middle; nothing is lost, and the old handler is back afterwards."""
    before = signal.getsignal(signal.SIGINT)

    def interrupt(progress: Progress) -> None:
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = train(tiny_run(tmp_path / "run"), show=interrupt)
    assert stopped.step == 5
    assert signal.getsignal(signal.SIGINT) is before
    assert_identical(train(tiny_run(tmp_path / "whole")), train(tmp_path / "run"))


def test_what_was_probed_after_the_checkpoint_is_probed_again(tmp_path: Path) -> None:
    """A crash loses the steps since the checkpoint; the curve does not hold them twice."""
    folder = tiny_run(tmp_path / "run")
    train(folder, probe_every=2, stop_after=4)
    with (folder / "curve.jsonl").open("a") as file:
        file.write('{"step": 6}\n')
    train(folder, probe_every=2)
    assert [entry["step"] for entry in read_curve(folder)] == [2, 4, 6, 8, 10, 12]


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    """Weights differ from the first step on."""
    one, other = (
        train(tiny_run(tmp_path / str(seed), seed=seed), stop_after=1).network.embedding.weight for seed in (1, 2)
    )
    assert not torch.equal(one, other)


def test_a_checkpoint_is_no_pickle_and_damage_is_said(tmp_path: Path) -> None:
    """safetensors begin with the length of a JSON header."""
    folder = tiny_run(tmp_path / "run")
    train(folder, stop_after=1)
    file = folder / "checkpoint.safetensors"
    assert file.read_bytes()[8:9] == b"{"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"checkpoint\.safetensors cannot be read"):
        train(folder)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    """With more layers than the weights that are there."""
    train(tiny_run(tmp_path / "small", n_layers=5), stop_after=1)
    folder = tiny_run(tmp_path / "large")
    (tmp_path / "small" / "checkpoint.safetensors").rename(folder / "checkpoint.safetensors")
    with pytest.raises(InputError, match="weights of another network"):
        train(folder)


def test_a_folder_is_started_once(tmp_path: Path) -> None:
    """A second start would lose the first run."""
    folder = tiny_run(tmp_path / "run")
    with pytest.raises(InputError, match="already holds a training run"):
        start(folder, CORPUS, tiny_recipe(), Speed())
    with pytest.raises(InputError, match=r"holds no run\.json"):
        train(tmp_path)


def test_a_budget_becomes_steps_in_proportion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer takes 10 ms, the rest 20 ms: what an average step takes fits, with a margin. Too little is refused."""
    stream = read_stream(tiny_run(tmp_path / "run"), TRAINING)
    monkeypatch.setattr(Trainer, "time_step", lambda self, depth, exits: 0.02 + 0.01 * depth)
    recipe = tiny_recipe(shallow_share=0.0, layer_dropout=0.0)
    assert steps_within(recipe, stream, Speed(), 80) == int(MARGIN * 1000)
    assert steps_within(tiny_recipe(), stream, Speed(), 80) > 1000
    with pytest.raises(InputError, match="at least 100"):
        steps_within(recipe, stream, Speed(), 0.1)


@torch.inference_mode()
def test_training_runs_the_network_that_decodes() -> None:
    """The span in real numbers gives the layers' own hidden states at every exit, and skips what it is told to."""
    recipe = tiny_recipe()
    network = new_network(recipe)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 280, (3, 20)))
    span = TrainingSpan(network, recipe.context, Speed())
    for state, logits in zip(span(tokens, range(6), [2, 6]), exit_logits(network, tokens, [2, 6]), strict=True):
        torch.testing.assert_close(network.read_out(state), logits, rtol=1e-4, atol=1e-4)
    for index in (1, 3):  # a dropped layer is one that adds nothing
        network.layers[index].output.weight.zero_()
        network.layers[index].down.weight.zero_()
    kept, all_layers = span(tokens, [0, 2, 4, 5], [2, 3, 6]), span(tokens, range(6), [2, 3, 6])
    for one, other in zip(kept, all_layers, strict=True):
        torch.testing.assert_close(one, other)


def test_divergence_and_how_much_of_it_pulls() -> None:
    """KL by hand; the teacher's gradient is the share `pull` of the true one."""
    teacher = torch.tensor([[0.5, 0.3, 0.2]]).log().requires_grad_()
    student = torch.tensor([[0.25, 0.25, 0.5]]).log().requires_grad_()
    expected = 0.5 * np.log(2) + 0.3 * np.log(1.2) + 0.2 * np.log(0.4)
    gradients = {}
    for pull in (0.0, 0.3, 1.0):
        value = divergence(teacher, student, pull)
        assert value.item() == pytest.approx(expected, rel=1e-5)
        teacher.grad = None
        value.backward()
        gradients[pull] = torch.zeros(3) if teacher.grad is None else teacher.grad.clone()
    assert gradients[0.0].abs().sum() == 0
    torch.testing.assert_close(gradients[0.3], 0.3 * gradients[1.0])


def test_without_a_compiler_training_goes_on_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the compiler's trouble is."""

    def broken(function: object) -> object:
        raise RuntimeError("Python.h: no such file")

    monkeypatch.setattr(torch, "compile", broken)
    assert Speed.best(1).compiled is False


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_training_is_the_same_and_resumes_too(tmp_path: Path) -> None:
    """Close to uncompiled losses, and bit for bit over an interruption, in bfloat16 as well."""
    if not can_compile():
        pytest.skip("no C++ compiler")
    plain = train(tiny_run(tmp_path / "plain"), probe_every=4)
    for bfloat16 in (False, True):
        speed = Speed(compiled=True, bfloat16=bfloat16)
        whole, parts = (tmp_path / f"{name}-{bfloat16}" for name in ("whole", "parts"))
        for folder in (whole, parts):
            start(folder, CORPUS, tiny_recipe(), speed)
        one = train(whole, probe_every=4)
        train(parts, stop_after=7)
        assert_identical(one, train(parts))
        last, expected = read_curve(whole)[-1]["loss"]["6"], read_curve(tmp_path / "plain")[-1]["loss"]["6"]
        assert last == pytest.approx(expected, rel=0.1 if bfloat16 else 1e-3)
    assert plain.step == 12
