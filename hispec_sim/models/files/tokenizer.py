"""Text to tokens and back: a thin cover over the `tokenizers` library, with stop tokens and the chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hispec_sim.errors import InputError
from hispec_sim.models.files.hf_config import read_json
from hispec_sim.models.optional import optional

Message = Mapping[str, str]
"""One turn of a chat: `role` and `content`."""

INCOMPLETE = "\ufffd"
"""What decoding gives for bytes that are no character, or not yet one."""


class Tokenizer:
    """`core` is a `tokenizers.Tokenizer`; `stop_ids` end a text; `special_tokens` are offered to the chat template by
    name (`bos_token`, `eos_token`)."""

    def __init__(
        self,
        core: Any,
        *,
        stop_ids: Iterable[int] = (),
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        core.no_padding()
        core.no_truncation()
        self.core = core
        self.stop_ids = frozenset(stop_ids)
        self.chat_template = chat_template
        self.special_tokens = dict(special_tokens or {})

    @property
    def vocab_size(self) -> int:
        """Tokens that text is made of, those added later (often special) not counted."""
        return int(self.core.get_vocab_size(with_added_tokens=False))

    def files(self) -> dict[str, str]:
        """What `load_tokenizer` and transformers read it from: file names and their text."""
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special_tokens}
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        files = {"tokenizer.json": self.core.to_str(), "tokenizer_config.json": json.dumps(config, indent=2)}
        if self.stop_ids:
            files["generation_config.json"] = json.dumps({"eos_token_id": sorted(self.stop_ids)})
        return files

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text; `special` adds what the tokenizer puts around one (often a first token)."""
        return list(self.core.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of token ids; `special` keeps special tokens visible."""
        return str(self.core.decode(list(ids), skip_special_tokens=not special))

    def stream(self, behind: Sequence[int] = ()) -> TextStream:
        """A decoder that is fed token by token, the first of them `behind` tokens whose text stands already."""
        return TextStream(self, behind)

    def encode_prompt(self, text: str, *, chat: bool) -> list[int]:
        """Token ids of what a user writes: a text to go on with, or, as `chat`, a question to answer. Raises InputError
        for a chat if the model brings no template."""
        return self.encode_chat([{"role": "user", "content": text}]) if chat else self.encode(text)

    def encode_chat(self, messages: Sequence[Message], *, answer: bool = True) -> list[int]:
        """Token ids of a conversation in the form the network was trained on, up to where its answer begins.

        Raises InputError if the model brings no chat template, or if the template refuses the messages.
        """
        return self.encode(self.render_chat(messages, answer=answer), special=False)

    def render_chat(self, messages: Sequence[Message], *, answer: bool = True) -> str:
        """The same as text."""
        if self.chat_template is None:
            raise InputError("the model has no chat template: it completes text; give the prompt as plain text")
        jinja2 = optional("jinja2")
        sandbox = optional("jinja2.sandbox").ImmutableSandboxedEnvironment
        environment = sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.globals["raise_exception"] = _refuse
        values = {"messages": list(messages), "add_generation_prompt": answer, **self.special_tokens}
        try:
            return str(environment.from_string(self.chat_template).render(**values))
        except jinja2.TemplateError as error:
            raise InputError(f"the model's chat template cannot render these messages: {error}") from None


class TextStream:
    """Decodes token by token; what is not yet a whole character waits for the next token. The pieces together are what
    decoding all tokens at once gives, less the text of those that they stand `behind`."""

    def __init__(self, tokenizer: Tokenizer, behind: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._before = list(behind)  # then those of the last piece: what follows may depend on them (a leading space)
        self._waiting: list[int] = []

    def push(self, *ids: int) -> str:
        """The text that these tokens complete; empty while a character is incomplete."""
        self._waiting += ids
        text = self._text()
        if not text or text.endswith(INCOMPLETE):
            return ""
        self._before, self._waiting = self._waiting, []
        return text

    def finish(self) -> str:
        """What still waits, with a mark for each incomplete character."""
        text = self._text()
        self._before, self._waiting = [], []
        return text

    def _text(self) -> str:
        known = self._tokenizer.decode(self._before)
        return self._tokenizer.decode([*self._before, *self._waiting])[len(known) :]


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json, and what its other files say of stop tokens and chats.

    Raises InputError if there is none or it is damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{folder} holds no tokenizer.json; copy it from where the weights come from, or write it once with "
            "transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    core = read_core(path)
    config = _json_if_there(folder / "tokenizer_config.json")
    special = {key: token for key in ("bos_token", "eos_token", "unk_token") if (token := _token(config.get(key)))}
    return Tokenizer(
        core,
        stop_ids=_stop_ids(folder, core, special.get("eos_token")),
        chat_template=_chat_template(folder, config),
        special_tokens=special,
    )


def read_core(path: Path) -> Any:
    """The `tokenizers.Tokenizer` in a tokenizer.json. Raises InputError if it is damaged."""
    try:
        return optional("tokenizers").Tokenizer.from_file(str(path))
    except InputError:
        raise
    except Exception as error:  # the library raises bare exceptions
        raise InputError(f"{path} is not a tokenizer ({error}): download it again") from None


def _stop_ids(folder: Path, core: Any, eos_token: str | None) -> set[int]:
    found: set[int] = set()
    for file in ("generation_config.json", "config.json"):
        ids = _json_if_there(folder / file).get("eos_token_id")
        found |= {i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)}
    if eos_token is not None and (number := core.token_to_id(eos_token)) is not None:
        found.add(number)
    return found


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # named templates
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _token(value: Any) -> str | None:
    """A special token, written as text or as an object that holds it."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _json_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _refuse(message: str) -> NoReturn:
    raise InputError(f"the model's chat template cannot render these messages: {message}")
