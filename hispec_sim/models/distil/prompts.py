"""What the network is asked to write about. Some topics are held out: no head is trained on what it says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.models.train.corpus import Corpus, family

HELD_OUT_SHARE = 1 / 8
EXCERPTS, EXCERPT_CHARACTERS = 4096, 240
"""Of the reference model's training text; such a piece is some 64 of its tokens."""

TOPICS = (
    "volcanoes", "bread", "chess", "the Roman Empire", "bicycles", "jazz", "photosynthesis", "electric cars", "dreams",
    "coral reefs", "the printing press", "coffee", "black holes", "gardening", "medieval castles", "the immune system",
    "public libraries", "football", "sailing ships", "glaciers", "probability", "the Silk Road", "bees", "bridges",
    "poetry", "antibiotics", "mountain climbing", "the stock market", "cheese", "earthquakes", "sorting algorithms",
    "the moon landing", "wool", "public transport", "whales", "the French Revolution", "lighthouses", "vaccines",
    "recursion in programming", "rice", "telescopes", "the Amazon rainforest", "marathon running", "clocks",
    "prime numbers", "tea ceremonies", "steam engines", "owls",
)  # fmt: skip

TASKS = (
    "What are {topic}?",
    "Tell me about {topic}.",
    "Write a short story in which {topic} and {other} play a role.",
    "Explain {topic} to a child of {number} years.",
    "List {number} facts about {topic}.",
    "Write a Python function that has something to do with {topic}, and explain it.",
    "Compare {topic} with {other}.",
    "Write a poem of {number} lines about {topic}.",
    "What do beginners get wrong about {topic}? Give {number} examples, and say for each how to do better.",
    "Write a letter to a friend about {topic}. Mention {other} in passing, and end with a question.",
    "I am preparing a talk of {number} minutes on {topic} for people who know much about {other}, but nothing of it. "
    "Please write an outline, with one sentence for each part, and a closing remark that ties both together.",
    "Here are my notes. First: {topic} matter more than people think. Second: I know little about the history. Third: "
    "my teacher says that there is a link to {other}, but I doubt it. Fourth: I need {number} good arguments. Turn "
    "these notes into a clear paragraph, and then say which of them is the weakest and why.",
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the network is asked, and the topic that it is counted under."""

    topic: str
    text: str


class BuiltIn:
    """Tasks of varied length about built-in topics."""

    def __init__(self, seed: int) -> None:
        self.held_out, self.training = split_topics(TOPICS, seed)

    def draw(self, rng: np.random.Generator, *, held_out: bool) -> Prompt:
        """A random prompt about a topic of one side; a second topic is of the same side."""
        topics = self.held_out if held_out else self.training
        topic, other = rng.choice(len(topics), 2, replace=False)
        task = TASKS[int(rng.integers(len(TASKS)))]
        return Prompt(topics[topic], task.format(topic=topics[topic], other=topics[other], number=rng.integers(3, 11)))


class FromFile:
    """The prompts of a JSONL file."""

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        self.held_out, self.training = split_topics(sorted({prompt.topic for prompt in prompts}), seed)
        sides = {True: set(self.held_out), False: set(self.training)}
        self._prompts = {side: [p for p in prompts if p.topic in topics] for side, topics in sides.items()}

    def draw(self, rng: np.random.Generator, *, held_out: bool) -> Prompt:
        """A random prompt of one side."""
        prompts = self._prompts[held_out]
        return prompts[int(rng.integers(len(prompts)))]


def split_topics(topics: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Held-out topics (an eighth, two at least if there are four) and those to train on."""
    order = np.random.default_rng([seed, 0]).permutation(len(topics))
    n_held_out = max(min(2, len(topics) // 2), round(HELD_OUT_SHARE * len(topics)))
    shuffled = [topics[place] for place in order]
    return shuffled[:n_held_out], shuffled[n_held_out:]


def excerpts(corpus: Corpus, seed: int) -> list[Prompt]:
    """Pieces of the documents that the reference model was trained on, each from a random place; a topic is a family
    of folders."""
    rng = np.random.default_rng([seed, 5])
    documents = [document for document in corpus.training if len(document.text) > EXCERPT_CHARACTERS]
    lengths = np.array([len(document.text) for document in documents], dtype=np.float64)
    found = []
    for i in rng.choice(len(documents), EXCERPTS, p=lengths / lengths.sum()):
        at = int(rng.integers(len(documents[i].text) - EXCERPT_CHARACTERS))
        found.append(Prompt(family(documents[i].folder), documents[i].text[at : at + EXCERPT_CHARACTERS]))
    return found


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a JSONL file, one object a line: `prompt`, and `topic` where several belong together.

    Raises InputError, naming the line, if one is no prompt, or if there are fewer than two topics.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts {path} cannot be read: {error}") from None
    prompts = [_prompt(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    topics = {prompt.topic for prompt in prompts}
    if len(topics) < 2:
        raise InputError(
            f"{path} has prompts on {len(topics)} topic(s); at least 2 are needed, because agreement is measured on "
            "topics that are held out"
        )
    return prompts


def _prompt(line: str, where: str) -> Prompt:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    text = entry.get("prompt") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'{where} must be an object with a text: {{"prompt": "...", "topic": "..."}}')
    topic = entry.get("topic", text)
    if not isinstance(topic, str):
        raise InputError(f"{where}: topic must be a text, got {topic!r}")
    return Prompt(topic, text)
