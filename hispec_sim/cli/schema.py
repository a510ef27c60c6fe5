"""`hispec schema`: the scenario file's JSON Schema."""

from __future__ import annotations

import json

import typer

from hispec_sim.scenario.schema import json_schema


def schema_command() -> None:
    """Print the JSON Schema of scenario files, for editors.

    In VS Code: hispec schema > scenario.schema.json, and begin a scenario with the line
    # yaml-language-server: $schema=scenario.schema.json
    """
    typer.echo(json.dumps(json_schema(), indent=2))
