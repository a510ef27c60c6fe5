"""What a measurement has so far, and the file that an unfinished one is kept in."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hispec_sim.errors import InputError
from hispec_sim.profiler.forwards import Episode, Kind, Point, What
from hispec_sim.profiler.pace import Scene, paces
from hispec_sim.profiler.plan import Grid


@dataclass(slots=True)
class Measurement:
    """What has been measured so far: which grid, the scenes in order, the seconds spent; and, of what the profile
    is to predict, by name the number of the scene, which has no samples, and its milliseconds."""

    settings: dict[str, Any]
    grid: Grid | None = None
    scenes: list[Scene] = field(default_factory=list)
    played: dict[Episode, int] = field(default_factory=dict)
    spent_s: float = 0.0
    probe_ms: list[float] = field(default_factory=list)
    checked: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def samples(self) -> dict[Point, list[float]]:
        """All times (ms) by point, in order."""
        found: dict[Point, list[float]] = {}
        for scene in self.scenes:
            for point, ms in scene.samples:
                found.setdefault(point, []).append(ms)
        return found

    def checked_ms(self) -> dict[str, list[float]]:
        """The times of what the profile is to predict, at the machine's usual pace."""
        slower = np.exp(paces(self.scenes))
        return {name: [ms / float(slower[scene]) for scene, ms in found] for name, found in self.checked.items()}

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        numbers = {point: number for number, point in enumerate(self.samples)}
        content = {
            "settings": self.settings,
            "grid": asdict(self.grid) if self.grid else None,
            "points": [astuple(point) for point in numbers],
            "scenes": [[scene.at_s, [[numbers[point], ms] for point, ms in scene.samples]] for scene in self.scenes],
            "played": [[astuple(episode), times] for episode, times in self.played.items()],
            "spent_s": self.spent_s,
            "probe_ms": self.probe_ms,
            "checked": self.checked,
        }
        unfinished = path.with_name(path.name + ".new")
        unfinished.write_text(json.dumps(content), encoding="utf-8")
        os.replace(unfinished, path)  # noqa: PTH105 - the atomic step, named as what it is

    @staticmethod
    def load(path: Path) -> Measurement:
        """Raises InputError if there is none, or it is damaged."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            grid: dict[str, Any] = content["grid"] or {}
            lists: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in grid.items()
            }
            points = [Point(What(point[0]), *point[1:]) for point in content["points"]]
            return Measurement(
                dict(content["settings"]),
                Grid(**lists) if lists else None,
                [
                    Scene(float(at_s), tuple((points[number], float(ms)) for number, ms in samples))
                    for at_s, samples in content["scenes"]
                ],
                {Episode(Kind(episode[0]), *episode[1:]): int(times) for episode, times in content["played"]},
                float(content["spent_s"]),
                [float(x) for x in content["probe_ms"]],
                {str(name): [(int(scene), float(ms)) for scene, ms in of] for name, of in content["checked"].items()},
            )
        except FileNotFoundError:
            raise InputError(f"there is no unfinished measurement to go on with (no {path})") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"{path} is damaged ({error!r}); delete it and measure anew") from None
