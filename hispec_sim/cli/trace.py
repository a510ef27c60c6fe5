"""`hispec trace`: record agreement traces, look at them, and take acceptance from elsewhere."""

from __future__ import annotations

import typer

from hispec_sim.cli.trace_record import record_command

trace_app = typer.Typer(help="Record and inspect which exits agree with the target.", no_args_is_help=True)


@trace_app.callback()
def _trace() -> None:
    """Record and inspect which exits agree with the target."""


trace_app.command("record")(record_command)
