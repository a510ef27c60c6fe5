"""Hugging Face folders: our logits are transformers' logits, both ways; bad folders get one clear sentence."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors
import torch
from loading_fakes import LLAMA3, VARIANTS, assert_same_logits, saved
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from hispec_sim.errors import InputError
from hispec_sim.models.files import safetensors_folder
from hispec_sim.models.files.safetensors_folder import load_folder, save_folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers_there_and_back(variant: str, tmp_path: Path) -> None:
    """A folder that transformers wrote, and the one that we write from it."""
    theirs = saved(tmp_path / "theirs", **VARIANTS[variant])
    ours = load_folder(tmp_path / "theirs")
    assert_same_logits(ours, theirs)
    save_folder(ours, tmp_path / "ours")
    back = LlamaForCausalLM.from_pretrained(tmp_path / "ours").eval()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name
    assert_same_logits(ours, back)


def test_sharded_folders_there_and_back(tmp_path: Path) -> None:
    """Weights split over several files with an index, by transformers and by us."""
    theirs = saved(tmp_path / "theirs", shard="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    ours = load_folder(tmp_path / "theirs")
    assert_same_logits(ours, theirs)
    save_folder(ours, tmp_path / "ours", shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    assert_same_logits(load_folder(tmp_path / "ours"), LlamaForCausalLM.from_pretrained(tmp_path / "ours").eval())


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_kept(dtype: str, torch_dtype: torch.dtype, tmp_path: Path) -> None:
    """Weights are rounded once, positions stay exact, and what is saved is what was loaded."""
    theirs = saved(tmp_path / "theirs", tie_word_embeddings=True)
    ours = load_folder(tmp_path / "theirs", dtype=dtype)
    assert {weight.dtype for weight in ours.parameters()} == {torch_dtype}
    assert ours.rotations.dtype == torch.complex64
    assert ours.head.weight is ours.embedding.weight
    save_folder(ours, tmp_path / "ours")
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert all(torch.equal(weight, theirs.state_dict()[name].to(torch_dtype)) for name, weight in stored.items())


def test_the_older_spellings_of_rope_scaling(tmp_path: Path) -> None:
    """`rope_theta` and `rope_scaling` with `type`, as files had it before `rope_parameters`."""
    theirs = saved(tmp_path, rope_parameters=LLAMA3)

    def older(config: dict[str, Any]) -> None:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope | {"type": rope.pop("rope_type")}

    edit(tmp_path, older)
    assert_same_logits(load_folder(tmp_path), theirs)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change config.json."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def cut(file: Path, keep: float) -> None:
    """Leave the first part of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")


HEAD, DOWN = "lm_head.weight", "model.layers.1.mlp.down_proj.weight"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "not a model folder: it holds no config.json"),
    "config cut short": (lambda f: cut(f / "config.json", 0.5), r"config.json is not valid JSON .* download it again"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "does not hold a JSON object"),
    "key missing": (lambda f: edit(f, lambda c: c.pop("hidden_size")), "config.json: hidden_size: Field required"),
    "key wrong": (lambda f: edit(f, lambda c: c.update(num_hidden_layers="x")), "num_hidden_layers: Input should be"),
    "zero layers": (lambda f: edit(f, lambda c: c.update(num_hidden_layers=0)), "n_layers must be a whole number"),
    "other architecture": (
        lambda f: edit(f, lambda c: c.update(architectures=["MixtralForCausalLM"])),
        "architecture MixtralForCausalLM is not supported, only LlamaForCausalLM is",
    ),
    "other model type": (
        lambda f: edit(f, lambda c: c.update(architectures=None, model_type="gpt2")),
        "architecture model_type gpt2 is not supported",
    ),
    "other activation": (lambda f: edit(f, lambda c: c.update(hidden_act="gelu")), "hidden_act 'gelu'"),
    "biases": (lambda f: edit(f, lambda c: c.update(attention_bias=True)), "attention_bias is true"),
    "mlp biases": (lambda f: edit(f, lambda c: c.update(mlp_bias=True)), "mlp_bias is true"),
    "other scaling": (
        lambda f: edit(f, lambda c: c.update(rope_parameters={"rope_type": "yarn", "factor": 2})),
        "config.json: rotary scaling 'yarn' is not supported, only llama3 is",
    ),
    "half a scaling": (
        lambda f: edit(f, lambda c: c.update(rope_parameters={"rope_type": "llama3", "factor": 2})),
        "rotary scaling llama3 needs factor, low_freq_factor",
    ),
    "quantised": (
        lambda f: edit(f, lambda c: c.update(quantization_config={"quant_method": "awq"})),
        "weights quantised by awq are not supported; take the unquantised checkpoint",
    ),
    "odd head": (lambda f: edit(f, lambda c: c.update(head_dim=7)), "head_dim must be even"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no weights: no file ends in .safetensors"),
    "pickle": (only_pickle, r"as pickles \(pytorch_model.bin\).* refused. Convert them"),
    "weights cut short": (lambda f: cut(f / "model.safetensors", 0.7), "not a whole safetensors file .* download it"),
    "empty weights": (lambda f: cut(f / "model.safetensors", 0), "not a whole safetensors file"),
    "git lfs": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n" + "oid 1\n" * 9),
        "is a Git LFS pointer; run git lfs pull",
    ),
    "tensor missing": (
        lambda f: rewrite(f, lambda w: (w.pop(DOWN), w.pop(HEAD))),
        rf"lacks tensor {DOWN} and 1 more \(expected shape \(32, 48\)\): the download is incomplete",
    ),
    "tensor of wrong shape": (
        lambda f: rewrite(f, lambda w: w.update({DOWN: torch.zeros(32, 40)})),
        rf"{DOWN} has shape \(32, 40\), expected \(32, 48\): the weights do not belong to this configuration",
    ),
    "tensor unknown": (
        lambda f: rewrite(f, lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})),
        "also holds tensor model.layers.0.self_attn.q_proj.bias, which a Llama network does not have",
    ),
    "tensor of integers": (
        lambda f: rewrite(f, lambda w: w.update({DOWN: torch.zeros(32, 48, dtype=torch.int8)})),
        f"{DOWN} is stored as I8, which is not supported",
    ),
    "tensor twice": (
        lambda f: save_file({HEAD: torch.zeros(97, 32)}, f / "more.safetensors"),
        f"{HEAD} is in another file too",
    ),
    "tied and not": (
        lambda f: edit(f, lambda c: c.update(tie_word_embeddings=True)),
        f"tie_word_embeddings is true, but {HEAD} differs",
    ),
    "shard missing": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
        "lacks model-2.safetensors, which model.safetensors.index.json lists",
    ),
    "index empty": (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "holds no weight_map"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_named_with_their_cure(case: str, tmp_path: Path) -> None:
    """One sentence with file, tensor, shapes and what to do."""
    damage, message = BAD[case]
    saved(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(InputError, match=message) as raised:
        load_folder(tmp_path / "model")
    assert str(tmp_path / "model") in str(raised.value)


def test_weights_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tests may be allowed to read everything."""

    def denied(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    saved(tmp_path / "model")
    monkeypatch.setattr(safetensors, "safe_open", lambda *_, **__: denied())
    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(safetensors_folder, "read_config", lambda *_: None)
    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors: Permission denied; make it readable"):
        load_folder(tmp_path / "model")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "int4"}, "dtype 'int4' is not known; choose one of fp32, bf16, fp16"), ({"device": "warp"}, "'warp'")],
)
def test_bad_options(options: dict[str, str], message: str, tmp_path: Path) -> None:
    """Types and devices that are none."""
    saved(tmp_path / "model")
    with pytest.raises(InputError, match=message):
        load_folder(tmp_path / "model", **options)


def test_saving_never_overwrites_unless_told(tmp_path: Path) -> None:
    """And then only a model; nothing half-written stays behind."""
    saved(tmp_path / "model")
    network = load_folder(tmp_path / "model")
    with pytest.raises(InputError, match="already holds something"):
        save_folder(network, tmp_path / "model")
    save_folder(network, tmp_path / "model", overwrite=True)
    (tmp_path / "model" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds more than a model \(thesis.tex\)"):
        save_folder(network, tmp_path / "model", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        save_folder(network, tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]
