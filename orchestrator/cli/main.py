"""The command `mor-sweep`: its verbs, and how an error ends it.

A user's mistake is one sentence on stderr and an exit code, never a traceback: an exception that names an `exit_code`
ends with that, any other ValueError with 2. Everything else is a defect and shows its traceback (exit code 1).
"""

import sys

import typer

from orchestrator.cli import analysis, data, results, sweep, system

USAGE_ERROR = 2

app = typer.Typer(
    help="From FLOP budgets to a compute-optimal frontier, for vanilla, recursive and routed transformers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("isoflop")(sweep.isoflop)
app.command("status")(results.status)
app.command("fit")(analysis.fit)
app.add_typer(analysis.plot, name="plot")
app.command("ui")(system.ui)
app.add_typer(data.data, name="data")
app.add_typer(system.mlflow_app, name="mlflow")


@app.callback()
def verbs() -> None:
    """From FLOP budgets to a compute-optimal frontier, for vanilla, recursive and routed transformers."""


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        sys.exit(code)


def exit_code(error: Exception) -> int | None:
    """What the process ends with; None for an exception that is a defect of this program."""
    return getattr(error, "exit_code", USAGE_ERROR if isinstance(error, ValueError) else None)
