"""Settings of all tests: CI repeats the same property-test examples, everyone else explores new ones."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
