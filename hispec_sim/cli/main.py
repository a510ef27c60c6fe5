"""The `hispec` command: one file per subcommand, and one place where errors become a paragraph and a status."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

import hispec_sim
from hispec_sim.cli.check import check_app
from hispec_sim.cli.decode import decode_command
from hispec_sim.cli.exits import train_exits_command
from hispec_sim.cli.profile import profile_app
from hispec_sim.cli.recommend import recommend_command
from hispec_sim.cli.report import report_command
from hispec_sim.cli.run import run_command
from hispec_sim.cli.schema import schema_command
from hispec_sim.cli.sweep import sweep_command
from hispec_sim.cli.trace import trace_app
from hispec_sim.cli.train import train_app
from hispec_sim.cli.validate import validate_command
from hispec_sim.errors import InputError

EXTRAS = {
    **dict.fromkeys(("torch", "threadpoolctl", "safetensors", "tokenizers", "gguf", "filelock"), "models"),
    **dict.fromkeys(("jinja2", "markupsafe"), "report"),
    **dict.fromkeys(("pyarrow", "optuna"), "sweep"),
    "ray": "cluster",
}
"""What to install when a package is missing that only some commands need."""

app = typer.Typer(
    name="hispec",
    help="Does hierarchical speculative decoding pay for your model, GPU and workload?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run_command)
app.command("sweep")(sweep_command)
app.command("recommend")(recommend_command)
app.command("report")(report_command)
app.command("decode")(decode_command)
app.command("validate")(validate_command)
app.command("schema")(schema_command)
app.add_typer(profile_app, name="profile")
app.add_typer(trace_app, name="trace")
app.add_typer(check_app, name="check")
train_app.command("exits")(train_exits_command)
app.add_typer(train_app, name="train")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(hispec_sim.__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. Wrong input is one paragraph on stderr and status 2."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="hispec")
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        typer.echo(f'error: this command needs {error.name}: pip install "hispec-sim[{extra}]"', err=True)
        sys.exit(2)
