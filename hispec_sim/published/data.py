"""The published numbers as they ship: CSV files whose leading comments name the source and how it was read."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """Rows of one table or figure. `source` names the paper, the table or figure; `notes` hold the other comments."""

    source: str
    notes: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]


@cache
def published_table(name: str, folder: str = "published") -> PublishedTable:
    """The table in `data/published/NAME.csv`; what was executed here is in the folder `executed`."""
    lines = files("hispec_sim").joinpath(f"data/{folder}/{name}.csv").read_text(encoding="utf-8").splitlines()
    notes = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    rows = tuple(csv.DictReader(line for line in lines if not line.startswith("#")))
    return PublishedTable(notes[0].removeprefix("source: "), tuple(notes[1:]), rows)


def published_value(table: str, key: str) -> float:
    """One number of a table that has the columns `key` and `value`."""
    return next(float(row["value"]) for row in published_table(table).rows if row["key"] == key)
