"""Hugging Face's config.json of a Llama network, and ours: one to the other and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from hispec_sim.errors import InputError
from hispec_sim.models.config import LlamaConfig, RopeScaling
from hispec_sim.networks import NetworkSpec


class _Rope(BaseModel):
    """`rope_scaling` (with `type` or `rope_type`), or `rope_parameters` of newer files, which holds the base too."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    factor: float | None = Field(None, gt=0)
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None
    partial_rotary_factor: float = 1.0


class _Config(BaseModel):
    """The keys that define the network, with the defaults that transformers gives them."""

    architectures: list[str] | None = None
    model_type: str | None = None
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int | None = Field(None, gt=0)
    head_dim: int | None = None
    vocab_size: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: _Rope | None = None
    rope_parameters: _Rope | None = None
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    partial_rotary_factor: float = 1.0
    quantization_config: dict[str, Any] | None = None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): download it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object: download it again")
    return content


def read_config(path: Path, name: str) -> LlamaConfig:
    """The network that a config.json describes.

    Raises InputError naming the key if one is missing or wrong, or asks for what `Llama` does not compute: another
    architecture or activation, biases, quantised weights, a rotary scaling other than Llama 3's.
    """
    try:
        raw = _Config.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    _check_supported(raw, path)
    if raw.head_dim is None and raw.hidden_size % raw.num_attention_heads:
        raise InputError(
            f"{path}: hidden_size ({raw.hidden_size}) is not a multiple of num_attention_heads "
            f"({raw.num_attention_heads}), and no head_dim is given"
        )
    try:
        shape = NetworkSpec(
            name=name,
            n_layers=raw.num_hidden_layers,
            hidden_size=raw.hidden_size,
            n_heads=raw.num_attention_heads,
            n_kv_heads=raw.num_key_value_heads or raw.num_attention_heads,
            head_dim=raw.head_dim or raw.hidden_size // raw.num_attention_heads,
            intermediate_size=raw.intermediate_size,
            vocab_size=raw.vocab_size,
            tied_embedding=raw.tie_word_embeddings,
        )
        rope = raw.rope_parameters or raw.rope_scaling or _Rope()
        theta = rope.rope_theta or raw.rope_theta or 10_000.0
        return LlamaConfig(shape, raw.max_position_embeddings, theta, _scaling(rope, path), raw.rms_norm_eps)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def config_json(config: LlamaConfig, dtype: str) -> dict[str, Any]:
    """The config.json of a network, as every version of transformers reads it; `dtype` as torch names it."""
    shape, scaling = config.shape, config.rope_scaling
    rope_scaling = scaling and {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_positions,
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope_scaling,
        "tie_word_embeddings": shape.tied_embedding,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": dtype,
    }


def _check_supported(raw: _Config, path: Path) -> None:
    architectures = raw.architectures or ([] if raw.model_type == "llama" else [f"model_type {raw.model_type}"])
    if any(architecture != "LlamaForCausalLM" for architecture in architectures):
        raise InputError(f"{path}: architecture {', '.join(architectures)} is not supported, only LlamaForCausalLM is")
    if raw.hidden_act not in ("silu", "swish"):
        raise InputError(f"{path}: hidden_act {raw.hidden_act!r} is not supported, only silu is")
    for key, biased in (("attention_bias", raw.attention_bias), ("mlp_bias", raw.mlp_bias)):
        if biased:
            raise InputError(f"{path}: {key} is true, but projections with biases are not supported")
    partial = raw.rope_parameters.partial_rotary_factor if raw.rope_parameters else raw.partial_rotary_factor
    if partial != 1.0:
        raise InputError(f"{path}: partial_rotary_factor {partial} is not supported, only whole heads are turned")
    if raw.quantization_config:
        method = raw.quantization_config.get("quant_method", "unnamed")
        raise InputError(f"{path}: weights quantised by {method} are not supported; take the unquantised checkpoint")


def _scaling(rope: _Rope, path: Path) -> RopeScaling | None:
    kind = rope.rope_type or rope.type or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise InputError(f"rotary scaling {kind!r} is not supported, only llama3 is")
    factor, low, high = rope.factor, rope.low_freq_factor, rope.high_freq_factor
    original = rope.original_max_position_embeddings
    if factor is None or low is None or high is None or original is None or not 0 < low < high or original < 1:
        raise InputError(
            "rotary scaling llama3 needs factor, low_freq_factor < high_freq_factor and "
            "original_max_position_embeddings, all above 0"
        )
    return RopeScaling(factor, low, high, original)
