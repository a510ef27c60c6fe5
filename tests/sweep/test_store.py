"""The store: whole parts or none, whatever happens, and a clear word about what cannot be read."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from hispec_sim.errors import InputError
from hispec_sim.sweep.evaluate import Figures
from hispec_sim.sweep.store import FORMAT, Store, create, writing

FIGURES = Figures((10.0, 11.5), (1.0, 1.1), (2.0, 2.5), (0.25, 0.75), (0.5, 0.5), (3.0, 1.0))
TEXTS = {"sweep.yaml": "a", "base.yaml": "b"}


def made(folder: Path) -> Store:
    return create(folder, {"code_version": "1"}, TEXTS)


def test_figures_come_back_as_they_went_in(tmp_path: Path) -> None:
    store = made(tmp_path / "store")
    store.append("simpy", {"a": FIGURES, "b": FIGURES})
    store.append("vectorised", {"a": FIGURES})
    assert Store(store.folder).finished() == {
        ("a", "simpy"): FIGURES,
        ("b", "simpy"): FIGURES,
        ("a", "vectorised"): FIGURES,
    }


def test_the_plan_is_replaced_and_parts_stay(tmp_path: Path) -> None:
    store = made(tmp_path)
    store.append("simpy", {"a": FIGURES})
    store.write_plan([{"point": "a", "n": 1}])
    again = made(tmp_path)
    again.write_plan([{"point": "b", "n": 2}])
    assert again.plan() == [{"point": "b", "n": 2}]
    assert set(again.finished()) == {("a", "simpy")}


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(tmp_path)
    store.append("simpy", {"a": FIGURES})
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"No space left on device; all that was finished before is kept"):
            store.append("simpy", {"b": FIGURES})
        with pytest.raises(InputError, match="No space left"):
            store.write_plan([{"point": "b"}])
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert set(Store(tmp_path).finished()) == {("a", "simpy")}


@pytest.mark.parametrize("damage", [b"", b"PAR1 and nonsense PAR1", None])
def test_a_damaged_part_is_named(tmp_path: Path, damage: bytes | None) -> None:
    store = made(tmp_path)
    store.append("simpy", {"a": FIGURES})
    (part,) = (tmp_path / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-20] if damage is None else damage)
    with pytest.raises(InputError, match=rf"{part.name} is damaged or cannot be read; remove that file"):
        store.finished()


def test_a_part_of_other_columns_is_named(tmp_path: Path) -> None:
    store = made(tmp_path)
    store.write_plan([{"point": "a"}])
    (tmp_path / "plan.parquet").rename(tmp_path / "parts" / "x.parquet")
    with pytest.raises(InputError, match=r"x.parquet is no part of a sweep"):
        store.finished()


def test_another_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    made(tmp_path)
    meta = tmp_path / "meta.json"
    text = json.dumps({"format": FORMAT + 1, "code_version": "9.9"})
    meta.write_text(text)
    for act in (lambda: Store(tmp_path), lambda: made(tmp_path)):
        with pytest.raises(InputError, match=rf"in format {FORMAT + 1}, and this version reads format {FORMAT}.*9\.9"):
            act()
    assert meta.read_text() == text


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_a_damaged_meta_can_be_removed(tmp_path: Path, text: str) -> None:
    made(tmp_path).append("simpy", {"a": FIGURES})
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(InputError, match=r"meta.json is damaged; remove it"):
        Store(tmp_path)
    (tmp_path / "meta.json").unlink()
    assert set(made(tmp_path).finished()) == {("a", "simpy")}


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="holds something else than a sweep"), writing(tmp_path):
        pass
    with pytest.raises(InputError, match="is a file"), writing(tmp_path / "summary.json"):
        pass
    with pytest.raises(InputError, match=r"holds no sweep \(it has no meta.json\)"):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_sweep_that_was_answered_goes_on(tmp_path: Path) -> None:
    made(tmp_path).append("simpy", {"a": FIGURES})
    for name in ("recommendation.json", "report.html", "notes.txt"):
        (tmp_path / name).write_text("kept")
    with writing(tmp_path):
        made(tmp_path)
    assert set(Store(tmp_path).finished()) == {("a", "simpy")}
    assert (tmp_path / "notes.txt").read_text() == "kept"


def test_a_file_in_the_parts_place_is_named(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "parts").rmdir()
    (tmp_path / "parts").write_text("no folder")
    with pytest.raises(InputError, match=r"parts cannot be read: Not a directory; .* give another --out"):
        Store(tmp_path).finished()
    with pytest.raises(InputError, match=r"cannot write to .*parts: File exists; give another place"):
        made(tmp_path)


def test_a_file_is_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a")
    with pytest.raises(InputError, match=r"a.yaml holds no sweep"):
        Store(tmp_path / "a.yaml")


def test_one_writes_at_a_time_and_clears_what_a_dead_one_left(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    made(folder)
    left = folder / "parts" / ".unfinished-x.parquet"
    left.write_bytes(b"half")
    with writing(folder):
        assert not left.exists()
        with pytest.raises(InputError, match="another sweep is writing"), writing(folder):
            pass
    with writing(folder):
        pass
