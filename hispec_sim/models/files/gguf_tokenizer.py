"""The tokenizer that a GGUF file carries: byte-level BPE, cut into words as the model's family does."""

from __future__ import annotations

from typing import Any

from hispec_sim.errors import InputError
from hispec_sim.models.files.gguf_file import GgufFile
from hispec_sim.models.files.tokenizer import Tokenizer, read_core
from hispec_sim.models.optional import optional

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL, USER_DEFINED = 3, 4
"""Kinds of tokens in GGUF that text is never cut through."""


def gguf_tokenizer(file: GgufFile) -> Tokenizer:
    """Built from the metadata, or from a tokenizer.json beside the file where its kind is not known here.

    Raises InputError if there is neither.
    """
    kind = file.get("tokenizer.ggml.model", str, "none")
    words = file.get("tokenizer.ggml.pre", str, "default")
    beside = file.path.with_name("tokenizer.json")
    if kind == "gpt2" and words in ("smollm", "llama-bpe", "gpt-2"):
        core = _byte_level(file, words)
    elif beside.is_file():
        core = read_core(beside)
    else:
        raise InputError(
            f"{file.path}: a tokenizer of kind {kind}/{words} is not supported; "
            f"put the model's tokenizer.json beside the file, as {beside}"
        )
    ends = [file.get(f"tokenizer.ggml.{name}_token_id", int, -1) for name in ("eos", "eot", "eom")]
    names = {name: file.get(f"tokenizer.ggml.{name}_token_id", int, -1) for name in ("bos", "eos")}
    return Tokenizer(
        core,
        stop_ids=[i for i in ends if i >= 0],
        chat_template=file.get("tokenizer.chat_template", str, "") or None,
        special_tokens={
            f"{name}_token": token for name, i in names.items() if i >= 0 and (token := core.id_to_token(i))
        },
    )


def _byte_level(file: GgufFile, words: str) -> Any:
    tk = optional("tokenizers")
    tokens, kinds, pairs = (file.get_list(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges"))
    if not all(isinstance(text, str) for text in (*tokens, *pairs)):
        raise InputError(f"{file.path}: the tokenizer's tokens and merges are not all texts: download it again")
    merges = [tuple(pair.split(" ")) for pair in pairs]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if not merges or len(vocabulary) != len(tokens) or len(kinds) != len(tokens):
        raise InputError(f"{file.path}: the tokenizer's tokens, kinds and merges do not belong together")
    try:
        core = tk.Tokenizer(tk.models.BPE(vocabulary, merges, ignore_merges=words == "llama-bpe"))
    except Exception as error:  # the library raises bare exceptions
        raise InputError(f"{file.path}: the tokenizer's merges are damaged ({error}): download it again") from None
    core.pre_tokenizer = _words(tk.pre_tokenizers, words)
    core.decoder = tk.decoders.ByteLevel()
    core.add_tokens(
        [
            tk.AddedToken(token, special=kind == SPECIAL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (SPECIAL, USER_DEFINED)
        ]
    )
    bos = file.get("tokenizer.ggml.bos_token_id", int, -1)
    if bos >= 0 and file.get("tokenizer.ggml.add_bos_token", bool, words == "llama-bpe"):
        if bos >= len(tokens):
            raise InputError(
                f"{file.path}: the tokenizer's first token is {bos} (tokenizer.ggml.bos_token_id), but it has only "
                f"{len(tokens)} tokens: download it again"
            )
        first = tokens[bos]
        core.post_processor = tk.processors.TemplateProcessing(
            single=[first, "$A"], pair=[first, "$A", first, "$B:1"], special_tokens=[(first, bos)]
        )
    return core


def _words(kinds: Any, words: str) -> Any:
    if words == "llama-bpe":
        cut = kinds.Split(optional("tokenizers").Regex(LLAMA3_WORDS), "isolated")
        return kinds.Sequence([cut, kinds.ByteLevel(add_prefix_space=False, use_regex=False)])
    plain = kinds.ByteLevel(add_prefix_space=False)
    return kinds.Sequence([kinds.Digits(individual_digits=True), plain]) if words == "smollm" else plain
