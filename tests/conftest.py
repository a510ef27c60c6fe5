"""Settings of all tests: CI repeats the same property-test examples, everyone else explores new ones. No test knows the
layouts of weights that another, or the user, has found."""

import os
import tempfile

import pytest
from hypothesis import settings

_cache = tempfile.TemporaryDirectory(prefix="hispec-")
os.environ["HISPEC_CACHE"] = _cache.name


@pytest.fixture(autouse=True)
def _nothing_found_before(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HISPEC_CACHE", str(tmp_path_factory.mktemp("cache")))


# No test fails for being slow: a machine that others share may stand still for half a second.
settings.register_profile("unhurried", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "unhurried")
