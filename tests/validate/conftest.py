"""These tests compare a profile that is measured once in a process with what is decoded later in it: both must have the
layouts of weights that the first of them found."""

import pytest


@pytest.fixture(autouse=True)
def _nothing_found_before():
    """In place of the one of all tests, which forgets layouts between tests: two trials on a busy machine can differ,
    and the profile is then rightly refused."""
