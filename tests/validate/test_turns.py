"""Commands that share a file of turns never work at once, and none waits for ever."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from hispec_sim.cli.turns import WAKE_S, turns
from hispec_sim.errors import InputError

PIECE_S = 0.01


def test_two_commands_work_in_turns(tmp_path: Path) -> None:
    began = threading.Barrier(2)
    pieces: list[tuple[str, float, float]] = []
    others_s = {"a": 0.0, "b": 0.0}

    def command(name: str) -> None:
        began.wait()
        with turns(tmp_path / "new" / "turns", 3 * PIECE_S) as rest:
            for _ in range(12):
                others_s[name] += rest()
                at_s = time.perf_counter()
                time.sleep(PIECE_S)
                pieces.append((name, at_s, time.perf_counter()))

    commands = [threading.Thread(target=command, args=(name,)) for name in others_s]
    for each in commands:
        each.start()
    for each in commands:
        each.join(30)
    pieces.sort(key=lambda piece: piece[1])
    assert len(pieces) == 24
    assert all(earlier[2] <= later[1] for earlier, later in pairwise(pieces))
    changes = sum(earlier[0] != later[0] for earlier, later in pairwise(pieces))
    assert changes >= 4  # and not one after the other
    assert all(seconds >= 3 * PIECE_S for seconds in others_s.values())


def test_alone_nobody_rests(tmp_path: Path) -> None:
    with turns(None, 0.0) as rest:
        assert rest() == 0.0
    with turns(tmp_path / "turns", 60.0) as rest:
        assert rest() == 0.0


def test_a_turn_begins_awake(tmp_path: Path) -> None:
    """A core that has slept is slow for a while; what it does then is nobody's time."""
    with turns(tmp_path / "turns", 0.0) as rest:
        busy_s = time.thread_time()
        away_s = rest()
        assert time.thread_time() - busy_s > WAKE_S / 2
        assert away_s > WAKE_S


def test_lost_time_is_not_of_a_turn(tmp_path: Path) -> None:
    """A turn that was all waiting goes on; once as much was worked beside it, it ends, and lost time starts anew."""
    with turns(tmp_path / "turns", 0.05) as rest:
        time.sleep(0.06)
        assert rest(lost_s=0.05) == 0.0
        time.sleep(0.05)
        assert rest(lost_s=0.05) > 0.0
        time.sleep(0.06)
        assert rest(lost_s=0.05) > 0.0


def test_a_turn_ends_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), turns(tmp_path / "turns", 60.0):
        raise KeyboardInterrupt
    with turns(tmp_path / "turns", 60.0) as rest:
        assert rest() == 0.0


def test_a_file_that_cannot_be_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"--turns: cannot lock .*: Is a directory; give another file"),
        turns(tmp_path, 1.0),
    ):
        pass
