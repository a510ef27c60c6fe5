"""What long work shows: lines now and then, a bar on a terminal, and neither beside the work itself."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from hispec_sim.cli import progress as module
from hispec_sim.cli.durations import duration
from hispec_sim.cli.progress import progress


class Shown:
    """A console and a clock under the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
        self.text, self.seconds = io.StringIO(), 100.0
        console = Console(file=self.text, force_terminal=terminal, width=100, color_system=None)
        monkeypatch.setattr(module, "Console", lambda stderr: console)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.seconds)


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch, terminal=False)
    with progress("decoding", 10, "runs", done=4) as bar:
        for _ in range(3):
            shown.seconds += 20.0
            bar()
        shown.seconds += 40.0
        bar.note("waiting for a quiet moment")
    assert shown.text.getvalue().splitlines() == [
        "decoding: 6 of 10 runs, 20 s each, 80 s left",
        "decoding: 7 of 10 runs, waiting for a quiet moment",
    ], "every half minute, and what was done before does not count as fast"


def test_many_small_pieces_are_told_by_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch, terminal=False)
    with progress("screening", 100_000, "points") as bar:
        shown.seconds += 40.0
        bar(8000)
    assert shown.text.getvalue() == "screening: 8,000 of 100,000 points, 200/s, 8 min left\n"


def test_nobody_knows_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch, terminal=False)
    with progress("recommending", 0, "steps") as bar:
        shown.seconds += 31.0
        bar()
    assert shown.text.getvalue() == "recommending: 1 steps\n"


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        shown = Shown(monkeypatch, terminal=terminal)
        with progress("simulating", 5, "runs") as bar:
            for _ in range(5):
                shown.seconds += 0.1
                bar()
        assert shown.text.getvalue() == ""


def test_a_bar_is_drawn_between_pieces_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread of its own draws: it would take its time from the work that is timed."""
    shown, threads = Shown(monkeypatch, terminal=True), threading.active_count()
    with progress("decoding", 5, "runs") as bar:
        shown.seconds += 2.0
        bar()
        before = shown.text.getvalue()
        assert "decoding" in before
        assert "1/5" in before
        assert "runs, 2 s each, 8 s left" in before
        assert threading.active_count() == threads
        shown.seconds += 0.05
        bar()
        assert shown.text.getvalue() == before, "ten times a second at most"


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 99.0, 100.0, 7200.0)] == ["0 s", "99 s", "2 min", "120 min"]
