"""Whatever is in the file: a profile or an InputError, and never another exception."""

from __future__ import annotations

import contextlib
import hashlib
import math
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st
from latency_fakes import PROVENANCE, SMALL

from hispec_sim.errors import InputError
from hispec_sim.latency import Provenance, read_profile
from hispec_sim.latency.profile_file import profile_text

TEXT = profile_text(SMALL)
FRONT = TEXT[: TEXT.index("op,")]
BODY = TEXT[len(FRONT) :]


def read(text: str, folder) -> object:
    path = folder / "fuzzed.csv"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    with contextlib.suppress(InputError):
        return read_profile(path)
    return None


@settings(max_examples=120)
@example(start=len(FRONT), cut=0, junk="\r")  # a lone carriage return in the header of the rows
@given(start=st.integers(0, len(FRONT)), cut=st.integers(0, 30), junk=st.text(max_size=12))
def test_damaged_front_matter(start, cut, junk, tmp_path_factory):
    read(FRONT[:start] + junk + FRONT[start + cut :] + BODY, tmp_path_factory.getbasetemp())


@settings(max_examples=120)
@given(start=st.integers(0, len(BODY)), cut=st.integers(0, 30), junk=st.text("0123456789.,-einfa\n\"'\0 ", max_size=12))
def test_damaged_rows_under_a_fitting_checksum(start, cut, junk, tmp_path_factory):
    body = BODY[:start] + junk + BODY[start + cut :]
    rows = body.count("\n") - 1
    front = FRONT[: FRONT.index("# rows")]
    front += f"# rows: {rows}\n# sha256: {hashlib.sha256(body.encode()).hexdigest()}\n"
    profile = read(front + body, tmp_path_factory.getbasetemp())
    if profile is not None:
        assert all(math.isfinite(row.ms) and row.ms > 0 for row in profile.rows)


@settings(max_examples=80)
@given(method=st.text(), command=st.text(), key=st.text(min_size=1), value=st.text())
def test_any_provenance_comes_back(method, command, key, value, tmp_path_factory):
    provenance = Provenance(
        dtype="float32", software={key: value}, date=PROVENANCE.date, command=command, method=method
    )
    profile = replace(SMALL, provenance=provenance)
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(profile_text(profile).encode("utf-8"))
    assert read_profile(path).provenance == provenance
