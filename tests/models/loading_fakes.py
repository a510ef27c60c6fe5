"""Tiny real checkpoints, made by transformers with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 97
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 5e5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped_untied": {},
    "one_kv_head": {"num_key_value_heads": 1},
    "all_kv_heads_tied": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "llama3_rope": {"rope_parameters": LLAMA3},
    "wide_heads_tied": {"head_dim": 12, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
    "other_norm_and_base": {"rms_norm_eps": 1e-2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
}


def checkpoint(**changes: Any) -> LlamaForCausalLM:
    """A network of three layers; every weight is random, norms too."""
    torch.manual_seed(5)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.15,
    }
    network = LlamaForCausalLM(LlamaConfig(**shape | changes)).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    return network


def saved(folder: Path, *, shard: str = "5GB", **changes: Any) -> LlamaForCausalLM:
    """The same, written into a folder."""
    network = checkpoint(**changes)
    network.save_pretrained(folder, max_shard_size=shard)
    return network


def assert_same_logits(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Both networks say the same about three texts of 40 tokens."""
    tokens = torch.randint(0, VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        one, other = (out if isinstance(out, torch.Tensor) else out.logits for out in (ours(tokens), theirs(tokens)))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
