"""Corpus and vocabulary."""

from __future__ import annotations

import pytest

from hispec_sim.errors import InputError
from hispec_sim.models.train.corpus import (
    Corpus,
    Document,
    family,
    is_held_out,
    package_corpus,
    read_corpus,
    without_header,
)

HEADER = "# Copyright\n#\n# Licensed\n\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two hundred folders of one file, and files that are none of ours."""
    root = tmp_path_factory.mktemp("package")
    for i in range(200):
        name = "".join(chr(97 + int(digit)) for digit in str(i)) + f"net{i % 3}"
        folder = root / "models" / name
        folder.mkdir(parents=True)
        (folder / f"modeling_{name}.py").write_text(f"{HEADER}class Net{i}:\n    '''a line that stands everywhere'''\n")
        (folder / "other.py").write_text("no\n")
    return read_corpus(root, "package 1.0")


def test_held_out_folders_are_nowhere_in_training(corpus: Corpus) -> None:
    """Nor is any member of their families, nor any of their files' text."""
    held_out, training = ({d.folder for d in side} for side in (corpus.held_out, corpus.training))
    assert held_out
    assert not {family(folder) for folder in held_out} & {family(folder) for folder in training}
    assert all(is_held_out(d.folder) for d in corpus.held_out)
    text = "".join(d.text for d in corpus.training)
    assert not [d.path for d in corpus.held_out if d.text.splitlines()[0] in text.splitlines()]
    assert len(corpus.training) + len(corpus.held_out) == 200
    assert 0.01 < len(corpus.held_out) / 200 < 0.15


def test_a_leaking_split_cannot_be_made() -> None:
    """Relatives count as leaks."""
    one, other = Document("models/qwen2/a.py", "x"), Document("models/qwen3_vl/b.py", "y")
    with pytest.raises(InputError, match="both trained on and held out: qwen"):
        Corpus("here", (one,), (other,))
    with pytest.raises(InputError, match="no documents held out"):
        Corpus("here", (one,), ())


def test_licence_headers_are_left_out(corpus: Corpus) -> None:
    """Comments inside the code stay."""
    assert all(d.text.startswith("class Net") for d in corpus.training)
    assert without_header(HEADER + "x = 1  # one\n# two\n") == "x = 1  # one\n# two\n"
    assert without_header("# only\n") == ""


def test_shared_lines_are_counted(corpus: Corpus) -> None:
    """The one long line of every file stands everywhere."""
    assert corpus.shared_lines() == 1.0


def test_equal_corpora_have_equal_digests(corpus: Corpus) -> None:
    """And one character makes another."""
    first, *others = corpus.training
    changed = Corpus(corpus.source, (Document(first.path, first.text + " "), *others), corpus.held_out)
    assert changed.digest != corpus.digest == Corpus("x", corpus.training, corpus.held_out).digest


def test_a_missing_package_comes_with_its_cure() -> None:
    """The command, and that only training needs it."""
    with pytest.raises(InputError, match="pip install --no-deps no_such_package_here"):
        package_corpus("no_such_package_here")


def test_a_vocabulary_gives_every_text_back() -> None:
    """Byte-level: also what it never saw. Documents begin with token 0."""
    pytest.importorskip("tokenizers")
    from hispec_sim.models.train.vocabulary import END_OF_TEXT, token_stream, train_vocabulary

    text = "def forward(self, hidden_states):\n        return self.proj(hidden_states)\n" * 20
    tokenizer = train_vocabulary([text], 320)
    assert tokenizer.get_vocab_size() <= 320
    for sample in (text, "µ ≥ 数 \t\r\n  🙂\n\n", " x", "", "a" * 300):
        assert tokenizer.decode(tokenizer.encode(sample).ids) == sample
    assert len(tokenizer.encode(text).ids) < len(text) / 2.5
    stream = token_stream(tokenizer, [Document("models/a/a.py", "ab"), Document("models/b/b.py", "c")])
    assert tokenizer.id_to_token(0) == END_OF_TEXT
    assert stream.dtype == "uint16"
    assert [i for i, token in enumerate(stream) if token == 0] == [0, len(stream) - 2]
    with pytest.raises(InputError, match="more than 256"):
        train_vocabulary([text], 256)
