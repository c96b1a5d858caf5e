"""The command `mor-sweep`: its verbs, and how an error ends it.

A user's mistake is one sentence on stderr and an exit code, never a traceback: an error of `mor_core.errors` ends with
the code of its class. A file that the system refuses is a sentence too. Everything else is a defect and shows its
traceback (exit code 1).
"""

import sys

import typer

from orchestrator.cli import (
    ablate,
    advice,
    analysis,
    checks,
    config,
    control,
    data,
    evaluation,
    inference,
    pilot,
    plot,
    report,
    results,
    suggest,
    sweep,
    system,
    transfer,
    tune,
)
from orchestrator.cli.exit_codes import exit_code_of
from orchestrator.records.terminal import clean_streams

UNEXPECTED = 1
NO_MEMORY = ("Cannot allocate memory", "failed to map segment from shared object")
"""How the system's loader says that a shared library did not fit."""

app = typer.Typer(
    help="From FLOP budgets to a compute-optimal frontier, for vanilla, recursive and routed transformers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("isoflop")(sweep.isoflop)
app.command("ablate")(ablate.ablate)
app.command("pilot")(pilot.pilot)
app.command("tune")(tune.tune)
app.command("status")(results.status)
app.command("logs")(results.logs)
app.command("cancel")(control.cancel)
app.command("retry")(control.retry)
app.command("fit")(analysis.fit)
app.add_typer(plot.plot, name="plot")
app.command("table")(advice.table)
app.command("predict")(advice.predict)
app.command("lifetime")(advice.lifetime)
app.command("compare")(advice.compare)
app.command("suggest")(suggest.suggest)
app.command("report")(report.report)
app.command("generate")(inference.generate)
app.command("throughput")(inference.throughput)
app.command("depth")(inference.depth)
app.command("routing")(inference.routing)
app.command("eval")(evaluation.evaluate)
app.command("export")(transfer.export)
app.command("import")(transfer.import_)
app.command("ui")(system.ui)
app.command("fsck")(checks.fsck)
app.command("gc")(control.gc)
app.command("doctor")(checks.doctor)
app.add_typer(config.config, name="config")
app.add_typer(data.data, name="data")
app.add_typer(system.mlflow_app, name="mlflow")


@app.callback()
def verbs() -> None:
    """From FLOP budgets to a compute-optimal frontier, for vanilla, recursive and routed transformers."""


@clean_streams()
def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except OSError as error:
        _end(f"{error.filename}: {error.strerror}" if error.filename else str(error), UNEXPECTED)
    except ImportError as error:
        if not any(cause in str(error) for cause in NO_MEMORY):
            raise
        _end(f"there is not enough memory to load a library ({error}): raise the limit (ulimit -v)", UNEXPECTED)
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        _end(str(error), code)


def _end(message: str, code: int) -> None:
    for line in message.splitlines():
        typer.echo(f"error: {line}", err=True)
    sys.exit(code)
