"""A whole validation: every configuration decoded again and again in turn, each run a file of its own, so that a
campaign that was stopped goes on where it stood."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hispec_sim.errors import InputError
from hispec_sim.study.uncertainty import profile_error
from hispec_sim.validate.budget import budget
from hispec_sim.validate.compare import row_of
from hispec_sim.validate.design import Configuration
from hispec_sim.validate.observation import Observation
from hispec_sim.validate.prediction import Predictor

SETTINGS, RUNS = "validation.json", "runs"
Observe = Callable[[Configuration, int], Observation]


class Campaign:
    """The folder of a validation and the runs in it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Begin in a new folder, or go on in one that holds runs with the same settings. Raises InputError if the
        folder holds something else, or the settings differ."""
        self.folder, self._runs = folder, folder / RUNS
        file, plain = folder / SETTINGS, json.loads(json.dumps(dict(settings)))
        if resume:
            try:
                stored = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise InputError(f"--resume: {file} cannot be read: {error}; begin without --resume") from None
            differ = sorted(key for key in plain.keys() | stored.keys() if plain.get(key) != stored.get(key))
            if differ:
                raise InputError(f"--resume: {file} was begun with another {', '.join(differ)}; give another --out")
        elif folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty; give another --out, or --resume to go on with it")
        try:
            self._runs.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(plain, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}; give another --out") from None

    def decode(
        self, configurations: Sequence[Configuration], repeats: int, observe: Observe, tick: Callable[[], None]
    ) -> None:
        """Run what has not been run: all configurations once, in an order of its own for each repeat, then again.
        Ctrl-C (KeyboardInterrupt) loses the run under way."""
        for repeat in range(repeats):
            for place in np.random.default_rng(repeat).permutation(len(configurations)):
                configuration = configurations[place]
                file = self._file(configuration, repeat)
                if not file.is_file():
                    write_text(file, json.dumps(observe(configuration, repeat).data()))
                tick()

    def observations(self, configuration: Configuration) -> list[Observation]:
        """The finished runs of a configuration. Raises InputError if a file is damaged."""
        found = []
        for file in sorted(self._runs.glob(f"{configuration.name}.r*.json")):
            try:
                found.append(Observation.of_data(json.loads(file.read_text(encoding="utf-8"))))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{file} is damaged ({error!r}); delete it and go on with --resume") from None
        return found

    def _file(self, configuration: Configuration, repeat: int) -> Path:
        return self._runs / f"{configuration.name}.r{repeat:03d}.json"


def compare_all(
    campaign: Campaign,
    configurations: Sequence[Configuration],
    predictor: Predictor,
    repetitions: int,
    tick: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """A row for each configuration that has been decoded (see `compare.row_of`)."""
    rows = []
    time_error = profile_error(predictor.cost.profile)
    for configuration in configurations:
        observations = campaign.observations(configuration)
        if observations:
            middle = sorted(observations, key=lambda each: each.figures.tokens_per_s)[(len(observations) - 1) // 2]
            taken_apart = budget(predictor, configuration, middle, min(repetitions, 9))
            prediction = predictor.predict(configuration, repetitions)
            rows.append(row_of(configuration, observations, prediction, taken_apart, time_error))
        tick()
    return pd.DataFrame(rows)


def write_text(path: Path, text: str) -> None:
    """Write a file in one move."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
