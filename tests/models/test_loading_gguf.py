"""GGUF files, written here as llama.cpp's converter writes them: logits are transformers' logits; damage is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loading_fakes import LLAMA3, VARIANTS, assert_same_logits, checkpoint
from transformers import LlamaForCausalLM

from hispec_sim.errors import InputError
from hispec_sim.models.files.gguf_file import FREQUENCIES, GgufFile, load_gguf

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permuted(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """What llama.cpp's convert_hf_to_gguf.py does to rows of query and key projections (LlamaModel.permute)."""
    return (
        weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def write_gguf(
    path: Path,
    network: LlamaForCausalLM,
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    change: Callable[[dict[str, np.ndarray]], object] = lambda tensors: None,
    **metadata: Any,
) -> None:
    """A GGUF file of the network; metadata keys are written with __ for dots, and None leaves one out."""
    config = network.config
    values = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
    }
    values |= {key.replace("__", "."): value for key, value in metadata.items()}
    writer = gguf.GGUFWriter(path, str(values.pop("general.architecture", "llama")))
    kinds: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in values.items():
        if value is not None:
            kinds[type(value)](key, value)
    tensors = {}
    for name, weight in network.named_parameters():
        array = weight.detach().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        stem = re.sub(r"model\.layers\.(\d+)\.", r"blk.\1.", name.removesuffix(".weight"))
        for theirs, short in NAMES.items():
            stem = stem.replace(theirs, short)
        tensors[f"{stem}.weight"] = permuted(array, heads) if heads else array
    if config.rope_parameters["rope_type"] == "llama3":
        plain = 1 / config.rope_parameters["rope_theta"] ** (np.arange(0, config.head_dim, 2) / config.head_dim)
        tensors[FREQUENCIES] = (plain / network.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    change(tensors)
    for name, array in tensors.items():
        if array.ndim == 2 and quantisation != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, gguf.quantize(array, quantisation), raw_dtype=quantisation)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def fitting(variant: dict[str, Any]) -> dict[str, Any]:
    """GGUF does not store Llama 3's original length: the published 8,192 is meant."""
    rope = variant.get("rope_parameters", {})
    return (
        variant | {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 8192}}
        if (rope.get("rope_type") == "llama3")
        else variant
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    """Which also proves the order of rows: llama.cpp's is ours."""
    network = checkpoint(**fitting(VARIANTS[variant]))
    write_gguf(tmp_path / "tiny.gguf", network)
    ours = load_gguf(GgufFile(tmp_path / "tiny.gguf"))
    assert (ours.config.rope_scaling is not None) == (network.config.rope_parameters["rope_type"] == "llama3")
    assert_same_logits(ours, network)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_1"])
def test_quantised_weights_are_what_the_gguf_library_makes_of_them(kind: str, tmp_path: Path) -> None:
    """And the network computes with exactly those."""
    quantisation = gguf.GGMLQuantizationType[kind]
    network = checkpoint(intermediate_size=64)
    write_gguf(tmp_path / "tiny.gguf", network, quantisation)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.dim() == 2:
                heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
                rows = permuted(weight.numpy(), heads) if heads else weight.numpy()
                rounded = gguf.dequantize(gguf.quantize(rows, quantisation), quantisation)
                if heads:  # the inverse of permuted
                    rounded = rounded.reshape(heads, -1, 2, 32).swapaxes(1, 2).reshape(rows.shape)
                weight.copy_(torch.tensor(rounded))
    assert_same_logits(load_gguf(GgufFile(tmp_path / "tiny.gguf")), network)


DOWN = "blk.1.ffn_down.weight"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"general__architecture": "qwen2"}, "architecture 'qwen2' is not supported, only llama is"),
    "experts": ({"llama__expert_count": 8}, "mixtures of experts are not supported"),
    "piece": ({"split__count": 3}, "one piece of several; join them with llama-gguf-split --merge"),
    "scaling": ({"llama__rope__scaling__type": "yarn"}, "rotary scaling 'yarn' is not supported"),
    "partial": ({"llama__rope__dimension_count": 4}, "llama.rope.dimension_count is 4, only the head's size, 8"),
    "missing": ({"llama__block_count": None}, "lacks the metadata llama.block_count"),
    "kind": ({"llama__block_count": "three"}, "llama.block_count is 'three', expected one int"),
    "list": ({"llama__feed_forward_length": [48, 48, 40]}, "llama.feed_forward_length is .* expected one int"),
    "too many layers": ({"llama__block_count": 10**9}, "holds 30 tensors, too few for 1000000000 layers"),
    "too long": ({"llama__context_length": 1 << 31}, "is said to have 2147483648 positions, more than the 4194304"),
    "eps": ({"llama__attention__layer_norm_rms_epsilon": 0.0}, "norm_eps must be above 0"),
    "no embedding": ({"change": lambda t: t.pop("token_embd.weight")}, "lacks token_embd.weight"),
    "tensor missing": ({"change": lambda t: t.pop(DOWN)}, rf"lacks tensor {DOWN} \(expected shape \(32, 48\)\)"),
    "shape": (
        {"change": lambda t: t.update({DOWN: np.zeros((32, 40), np.float32)})},
        rf"{DOWN} has shape \(32, 40\), expected \(32, 48\)",
    ),
    "bias": (
        {"change": lambda t: t.update({"blk.0.attn_q.bias": np.zeros(32, np.float32)})},
        "also holds tensor blk.0.attn_q.bias",
    ),
    "frequencies": (
        {"change": lambda t: t.update({FREQUENCIES: np.array([1, 2, 9, 4], np.float32)})},
        "the rotary scaling in rope_freqs.weight is not Llama 3's",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named_with_their_cure(case: str, tmp_path: Path) -> None:
    """One sentence with the file, and what is wrong in it."""
    changes, message = BAD[case]
    write_gguf(tmp_path / "tiny.gguf", checkpoint(), **changes)
    with pytest.raises(InputError, match=message) as raised:
        load_gguf(GgufFile(tmp_path / "tiny.gguf"))
    assert str(tmp_path / "tiny.gguf") in str(raised.value)


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    """No file, an empty one, another format."""
    for content in (None, b"", b"PK\x03\x04 something else"):
        if content is not None:
            (tmp_path / "a.gguf").write_bytes(content)
        with pytest.raises(InputError, match=r"a.gguf"):
            GgufFile(tmp_path / "a.gguf")


LISTS: dict[str, list[Any]] = {
    "x.texts": ["", "a", "Grüße \u2028 \U0001f40b", "x" * 300],
    "x.whole": [-1, 0, 7],
    "x.real": [0.5, -2.0],
    "x.flags": [True, False],
}


@pytest.mark.parametrize("endianess", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_metadata_are_what_the_gguf_library_reads(endianess: gguf.GGUFEndian, tmp_path: Path) -> None:
    """Lists are read at once here, item by item there."""
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=endianess)
    for key, values in LISTS.items():
        writer.add_array(key, values)
    writer.add_string("x.last", "behind the lists")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(path)
    for key, values in LISTS.items():
        assert file.get_list(key) == values == gguf.GGUFReader(path).fields[key].contents()
    assert file.get("x.last", str) == "behind the lists"


def test_a_damaged_text_of_a_list_matters_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path, checkpoint(), tokenizer__ggml__tokens=["plain", "letters"])
    path.write_bytes(path.read_bytes().replace(b"letters", b"lett\xff\xfes"))
    file = GgufFile(path)
    load_gguf(file)
    with pytest.raises(InputError, match=r"tokenizer.ggml.tokens is damaged"):
        file.get_list("tokenizer.ggml.tokens")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    write_gguf(path, checkpoint())
    return path


@settings(max_examples=40, deadline=None)
@given(keep=st.floats(0, 0.9999))
def test_files_cut_anywhere_are_refused(keep: float, whole: Path) -> None:
    """A download that stopped."""
    content = whole.read_bytes()
    short = whole.with_name("short.gguf")
    short.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match=r"short.gguf"):
        load_gguf(GgufFile(short))
