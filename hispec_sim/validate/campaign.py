"""A whole validation: every configuration decoded again and again in turn, block of prompts by block, each part a file
of its own, so that a campaign that was stopped goes on where it stood."""

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
from hispec_sim.validate.compare import row_of, row_of_blocks
from hispec_sim.validate.design import Configuration
from hispec_sim.validate.forwards import forwards_table, times_of
from hispec_sim.validate.observation import Observation, merged, summed_times
from hispec_sim.validate.prediction import Predictor

SETTINGS, RUNS, PROMPTS = "validation.json", "runs", "prompts.json"
MACHINE = "machine"
"""Key of the settings under which the conditions of the runs stand."""
Run = tuple[Configuration, int, int]
"""A configuration, the repeat, and the number of the part of the prompts (`Configuration.parts`)."""
Observe = Callable[[Configuration, int, int], Observation]
"""Decodes a part of the prompts with a configuration: (configuration, repeat, part)."""


class Campaign:
    """The folder of a validation and the runs in it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool, decode: bool = True) -> None:
        """Begin in a new folder, or go on in one that holds runs with the same settings; without `decode` only in one
        that holds runs, here or on another machine. `machine` is where they were decoded. Raises InputError if the
        folder holds something else, or the settings differ."""
        self.folder, self._runs, self._decode = folder, folder / RUNS, decode
        file, plain = folder / SETTINGS, json.loads(json.dumps(dict(settings)))
        option = "--resume" if decode else "--no-decode"
        if not decode and not any(self._runs.glob("*.r000.p000.json")):
            raise InputError(f"--no-decode: no run is finished in {folder}; decode first, without --no-decode")
        if resume or not decode:
            try:
                stored = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise InputError(f"{option}: {file} cannot be read: {error}; begin in another --out") from None
            if not decode:
                plain[MACHINE] = stored.get(MACHINE)  # finished runs can be compared anywhere
            differ = sorted(key for key in plain.keys() | stored.keys() if plain.get(key) != stored.get(key))
            if differ:
                raise InputError(f"{option}: {file} was begun with another {', '.join(differ)}; give another --out")
        elif folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty; give another --out, or --resume to go on with it")
        self.machine: dict[str, str] = plain.get(MACHINE) or {}
        try:
            self._runs.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(plain, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}; give another --out") from None

    def prompts(self, choose: Callable[[], list[str]]) -> list[str]:
        """The hashes of the prompts that are decoded: chosen when the campaign begins, and the same ever after. Raises
        InputError if they are damaged, or not there and nothing is to be decoded."""
        file = self.folder / PROMPTS
        if not file.is_file():
            if not self._decode:
                raise InputError(f"--no-decode: {file} is missing; choose the prompts again with --resume")
            write_text(file, json.dumps(choose(), indent=1) + "\n")
        try:
            return [str(sha256) for sha256 in json.loads(file.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{file} is damaged ({error!r}); delete it and go on with --resume") from None

    def missing(self, configurations: Sequence[Configuration], repeats: int, block_sizes: Sequence[int]) -> list[Run]:
        """What has not been run, in the order to run it in: a block of prompts with all configurations, part by part in
        an order of its own, then the next block; all of it `repeats` times."""
        found: list[Run] = []
        for repeat in range(repeats):
            first = dict.fromkeys(configurations, 0)
            for block in range(len(block_sizes)):
                runs: list[Run] = []
                for each in configurations:
                    number = len(each.parts(block_sizes)[block])
                    runs.extend((each, repeat, first[each] + k) for k in range(number))
                    first[each] += number
                found.extend(runs[k] for k in np.random.default_rng([repeat, block]).permutation(len(runs)))
        return [run for run in found if not self._file(*run).is_file()]

    def decode(
        self,
        runs: Sequence[Run],
        observe: Observe,
        tick: Callable[[], None] = lambda: None,
        rest: Callable[[], object] = lambda: None,
    ) -> None:
        """Run them. Before each run `rest` may let others work. Ctrl-C (KeyboardInterrupt) loses the run under way."""
        for run in runs:
            rest()
            write_text(self._file(*run), json.dumps(observe(*run).data()))
            tick()

    def observations(self, configuration: Configuration) -> list[Observation]:
        """The runs of a configuration, each of as many first parts as the first run has; runs that have fewer are left
        out. Raises InputError if a file is damaged."""
        runs: list[list[Observation]] = []
        while parts := self._parts(configuration, len(runs), len(runs[0]) if runs else None):
            runs.append(parts)
        return [merged(parts) for parts in runs]

    def blocks(self, configuration: Configuration, block_sizes: Sequence[int]) -> list[Observation]:
        """The whole blocks of prompts of the first run of a configuration. Raises InputError if a file is damaged."""
        parts, found, first = self._parts(configuration, 0, None), [], 0
        for block in configuration.parts(block_sizes):
            if first + len(block) <= len(parts):
                found.append(merged(parts[first : first + len(block)]))
            first += len(block)
        return found

    def _parts(self, configuration: Configuration, repeat: int, wanted: int | None) -> list[Observation]:
        """The first parts of a run that are there; none if they are fewer than wanted."""
        found: list[Observation] = []
        while len(found) != wanted and (file := self._file(configuration, repeat, len(found))).is_file():
            try:
                found.append(Observation.of_data(json.loads(file.read_text(encoding="utf-8"))))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{file} is damaged, or of another version ({error!r}); delete it and go on with --resume"
                ) from None
        return found if wanted is None or len(found) == wanted else []

    def _file(self, configuration: Configuration, repeat: int, part: int) -> Path:
        return self._runs / f"{configuration.name}.r{repeat:03d}.p{part:03d}.json"


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
    decoded = [campaign.observations(configuration) for configuration in configurations]
    all_runs = summed_times(middle_run(observations) for observations in decoded if observations)
    for configuration, observations in zip(configurations, decoded, strict=True):
        if observations:
            middle = middle_run(observations)
            taken_apart = budget(predictor, configuration, middle, all_runs)
            prediction = predictor.predict(configuration, repetitions, len(middle.verified))
            row = row_of(configuration, observations, prediction, taken_apart, time_error)
            if predictor.paired is None:  # else the prompts are no draw
                blocks = campaign.blocks(configuration, predictor.block_sizes)
                row |= row_of_blocks(blocks, prediction, time_error)
            rows.append(row)
        tick()
    return pd.DataFrame(rows)


def forwards_of(campaign: Campaign, configurations: Sequence[Configuration], predictor: Predictor) -> pd.DataFrame:
    """What forwards of the decoded configurations really took, and their prices (see `forwards.forwards_table`)."""
    decoded = [(each, found) for each in configurations if (found := campaign.observations(each))]
    return forwards_table(times_of(predictor, each, middle_run(found)) for each, found in decoded)


def middle_run(observations: Sequence[Observation]) -> Observation:
    """The run of the median rate."""
    return sorted(observations, key=lambda each: each.figures.tokens_per_s)[(len(observations) - 1) // 2]


def write_text(path: Path, text: str) -> None:
    """Write a file in one move."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
