"""The scenarios that ship: all load, every number of theirs has a source, and none is left unused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hispec_sim.scenario.load import load_scenario
from hispec_sim.scenario.schema import json_schema
from hispec_sim.scenario.yaml_source import read_source
from hispec_sim.study.sensitivity import varied_parameters
from hispec_sim.study.study import Study

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))


def test_the_named_scenarios_ship() -> None:
    """Those that the README and users refer to."""
    assert {"70b_3b", "hispec_llama2_70b", "hispec_llama3_8b", "quick"} <= {path.stem for path in SCENARIOS}


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_number_has_a_source(path: Path) -> None:
    """Acceptance and host overhead come from `parameters` alone, and every parameter is used."""
    source, loaded = read_source(path), load_scenario(path)

    def literals(item: Any, key: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if isinstance(item, dict):
            for name, value in item.items():
                yield from literals(value, (*key, name))
        elif isinstance(item, list):
            for index, value in enumerate(item):
                yield from literals(value, (*key, index))
        elif isinstance(item, int | float) and item != 0:
            yield key

    policies, device = source.data["policies"], source.data.get("device", {})
    assert [key for policy in policies for key in literals(policy.get("acceptance", {}))] == []
    assert list(literals(device)) == []
    assert set(loaded.uses.values()) == set(loaded.scenario.parameters)
    assumed = {name for name, parameter in loaded.scenario.parameters.items() if parameter.assumed}
    assert assumed <= set(varied_parameters(loaded))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_it_runs(path: Path) -> None:
    """In a small version, with finite results for every policy."""
    small = ["repetitions=1", "workload.requests=1", "workload.output_tokens=32"]
    summary = Study(load_scenario(path, small)).run().summary
    assert all(policy.tokens_per_s.median > 0 for policy in summary.policies)


def test_json_schema_accepts_references() -> None:
    """An editor must not mark `$name` where a number is expected."""
    schema = json_schema()
    accept = schema["$defs"]["AgreementSpec"]["properties"]["accept"]
    assert "pattern" in str(accept)
    assert schema["additionalProperties"] is False
