"""A small byte-level BPE vocabulary (Sennrich et al., arXiv 1508.07909; bytes: Radford et al. 2019), and token streams.

Small, because the LM head of a narrow network would otherwise cost more than its layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.models.optional import optional
from hispec_sim.models.train.corpus import Document

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""Token 0; stands before every document."""


def train_vocabulary(texts: Iterable[str], size: int) -> Tokenizer:
    """Learn a vocabulary of at most `size` tokens. Raises InputError if it is too small or `tokenizers` is missing."""
    optional("tokenizers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if size <= len(alphabet):
        raise InputError(f"a byte-level vocabulary has more than {len(alphabet)} tokens, {size} are asked for")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END_OF_TEXT], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_stream(tokenizer: Tokenizer, documents: Sequence[Document]) -> np.ndarray:
    """All documents one after another, each after an end-of-text token; uint16 of shape (tokens,)."""
    if tokenizer.get_vocab_size() > np.iinfo(np.uint16).max:
        raise InputError("token streams hold vocabularies of up to 65,535 tokens")
    parts = []
    for encoding in tokenizer.encode_batch([document.text for document in documents]):
        parts.append(np.array([0, *encoding.ids], np.uint16))
    return np.concatenate(parts)
