"""A whole validation: every configuration decoded again and again in turn, block of prompts by block, each part a file
of its own, so that a campaign that was stopped goes on where it stood."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hispec_sim.errors import InputError
from hispec_sim.study.uncertainty import profile_error
from hispec_sim.validate.budget import budget
from hispec_sim.validate.compare import row_of, row_of_blocks
from hispec_sim.validate.contexts import errors_by_prompt
from hispec_sim.validate.design import Configuration
from hispec_sim.validate.forwards import forwards_table, machine_error, summed_times, times_of
from hispec_sim.validate.observation import Observation, merged
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

    def common_blocks(self, configurations: Sequence[Configuration], block_sizes: Sequence[int]) -> int:
        """How many blocks of prompts, from the first on, all configurations have decoded whole: what is compared must
        have decoded the same prompts."""
        return min((self._whole_blocks(each, block_sizes) for each in configurations), default=0)

    def observations(self, configuration: Configuration, most_parts: int | None = None) -> list[Observation]:
        """The runs of a configuration, each of as many first parts as the first run has, or of at most so many; runs
        that have fewer are left out. Raises InputError if a file is damaged."""
        parts = self.parts(configuration, most_parts)
        runs: list[list[Observation]] = []
        while parts and len(parts) == len(runs[0] if runs else parts):
            runs.append(parts)
            parts = self._parts(configuration, len(runs), len(runs[0]))
        return [merged(parts) for parts in runs]

    def blocks(self, configuration: Configuration, block_sizes: Sequence[int]) -> list[Observation]:
        """These blocks of prompts, whole ones, of the first run of a configuration. Raises InputError if a file is
        damaged."""
        counts = [len(block) for block in configuration.parts(block_sizes)]
        parts, ends = self.parts(configuration, sum(counts)), accumulate(counts)
        return [merged(parts[end - count : end]) for count, end in zip(counts, ends, strict=True) if end <= len(parts)]

    def _whole_blocks(self, configuration: Configuration, block_sizes: Sequence[int]) -> int:
        ends = list(accumulate(len(block) for block in configuration.parts(block_sizes)))
        there = takewhile(lambda part: self._file(configuration, 0, part).is_file(), range(ends[-1]))
        return bisect_right(ends, sum(1 for _ in there))

    def parts(self, configuration: Configuration, most: int | None) -> list[Observation]:
        """The first parts of the first run of a configuration that are there, or at most so many. Raises InputError if
        a file is damaged."""
        return self._parts(configuration, 0, most)

    def _parts(self, configuration: Configuration, repeat: int, most: int | None) -> list[Observation]:
        """The first parts of a run that are there, or at most so many."""
        found: list[Observation] = []
        while len(found) != most and (file := self._file(configuration, repeat, len(found))).is_file():
            try:
                found.append(Observation.of_data(json.loads(file.read_text(encoding="utf-8"))))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{file} is damaged, or of another version ({error!r}); delete it and go on with --resume"
                ) from None
        return found

    def _file(self, configuration: Configuration, repeat: int, part: int) -> Path:
        return self._runs / f"{configuration.name}.r{repeat:03d}.p{part:03d}.json"


@dataclass(frozen=True, slots=True)
class Compared:
    """`rows`: one for each configuration that has been decoded (see `compare.row_of`); `forwards`: what their forwards
    took, and their prices (see `forwards.forwards_table`); `prompts`: the error at each decoded prompt's context (see
    `contexts.errors_by_prompt`); `common_blocks`: of prompts, which all have decoded."""

    rows: pd.DataFrame
    forwards: pd.DataFrame
    prompts: pd.DataFrame
    common_blocks: int


def compare_all(
    campaign: Campaign,
    configurations: Sequence[Configuration],
    predictor: Predictor,
    repetitions: int,
    tick: Callable[[], None] = lambda: None,
) -> Compared:
    """Real against simulated, on the blocks of prompts that all configurations have decoded; where they have none in
    common, each on what it has."""
    common = campaign.common_blocks(configurations, predictor.block_sizes)
    sizes = predictor.block_sizes[: common or None]

    def observed(configuration: Configuration) -> list[Observation]:
        return campaign.observations(configuration, sum(map(len, configuration.parts(sizes))))

    rows, time_error = [], profile_error(predictor.cost.profile)
    decoded = {each: found for each in configurations if (found := observed(each))}
    middle = {each: middle_run(found) for each, found in decoded.items()}
    times = {each: times_of(predictor, each, run) for each, run in middle.items()}
    everyone = summed_times(times.values())
    prompts = [
        errors_by_prompt(predictor, each, campaign.parts(each, len(run.verified)))
        for each, run in middle.items()
        if each.batch == 1
    ]
    for configuration in configurations:
        if configuration in decoded:
            run = middle[configuration]
            machine = machine_error(times[configuration], everyone)
            prediction = predictor.predict(configuration, repetitions, len(run.verified))
            taken_apart = budget(predictor, configuration, run, machine)
            row = row_of(configuration, decoded[configuration], prediction, taken_apart, time_error)
            if predictor.paired is None:  # else the prompts are no draw
                row |= row_of_blocks(campaign.blocks(configuration, sizes), prediction, time_error)
            rows.append(row)
        tick()
    return Compared(
        rows=pd.DataFrame(rows),
        forwards=forwards_table(everyone) if rows else pd.DataFrame(),
        prompts=pd.concat(prompts) if prompts else pd.DataFrame({"context": [], "error": []}),
        common_blocks=common,
    )


def middle_run(observations: Sequence[Observation]) -> Observation:
    """The run of the median rate."""
    return sorted(observations, key=lambda each: each.figures.tokens_per_s)[(len(observations) - 1) // 2]


def write_text(path: Path, text: str) -> None:
    """Write a file in one move."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
