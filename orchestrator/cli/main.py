"""The command `mor-sweep`: its verbs, and how an error ends it.

A user's mistake is one sentence on stderr and an exit code, never a traceback: an error of `mor_core.errors` ends with
the code of its class. A file that the system refuses is a sentence too. Everything else is a defect and shows its
traceback (exit code 1).
"""

import sys

import typer

from mor_core.errors import MorSweepError, Refused, Unreachable, UserError
from orchestrator.cli import config, data
from orchestrator.cli.fits import advice, backtest, fit, forecast, plot, report, suggest
from orchestrator.cli.inference import evaluate, text
from orchestrator.cli.options import fix_in_flags
from orchestrator.cli.results import checks, control, status, tracking, transfer
from orchestrator.cli.train import ablate, isoflop, pilot, tune
from orchestrator.records.terminal import clean_streams

UNEXPECTED = 1
EXIT_CODES: dict[type, int] = {MorSweepError: 1, UserError: 2, Refused: 4, Unreachable: 6}
"""By the class of an error."""

EXIT_MEANINGS: dict[int, str] = {
    0: "All went well.",
    1: "Something unexpected; also what a check found: `fsck`, `doctor`, `mlflow sync --check`.",
    2: "A mistake in what was typed, in a sweep file or in a table. One sentence says what to do.",
    3: "The sweep ended with cells that failed or diverged; the others are finished.",
    4: "The plan was refused: it cannot be trained as it stands, or it was not confirmed. Nothing was trained.",
    5: "The fit was refused: the runs support no number, and the reason is printed.",
    6: "The cluster, the tracking server or the results folder is gone or cannot be reached.",
    130: "Ctrl-C. The same command goes on.",
    143: "SIGTERM. The same command goes on.",
}
"""Every exit code of the command."""

NO_MEMORY = ("Cannot allocate memory", "failed to map segment from shared object")
"""How the system's loader says that a shared library did not fit."""

app = typer.Typer(
    help="From FLOP budgets to a compute-optimal frontier, for vanilla, recursive and routed transformers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("isoflop")(isoflop.isoflop)
app.command("ablate")(ablate.ablate)
app.command("pilot")(pilot.pilot)
app.command("tune")(tune.tune)
app.command("status")(status.status)
app.command("logs")(status.logs)
app.command("cancel")(control.cancel)
app.command("retry")(control.retry)
app.command("fit")(fit.fit)
app.add_typer(plot.plot, name="plot")
app.command("table")(advice.table)
app.command("predict")(advice.predict)
app.command("backtest")(backtest.backtest)
app.command("forecast")(forecast.forecast)
app.command("lifetime")(advice.lifetime)
app.command("compare")(advice.compare)
app.command("suggest")(suggest.suggest)
app.command("report")(report.report)
app.command("generate")(text.generate)
app.command("throughput")(text.throughput)
app.command("depth")(text.depth)
app.command("routing")(text.routing)
app.command("eval")(evaluate.evaluate)
app.command("export")(transfer.export)
app.command("import")(transfer.import_)
app.command("ui")(tracking.ui)
app.command("fsck")(checks.fsck)
app.command("gc")(control.gc)
app.command("doctor")(checks.doctor)
app.add_typer(config.config, name="config")
app.add_typer(data.data, name="data")
app.add_typer(tracking.mlflow_app, name="mlflow")


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
        _end(error.explanation(fix_in_flags) if isinstance(error, MorSweepError) else str(error), code)


def _end(message: str, code: int) -> None:
    for line in message.splitlines():
        typer.echo(f"error: {line}", err=True)
    sys.exit(code)


def exit_code_of(error: BaseException) -> int | None:
    """By the nearest class of the table that the error inherits from; None for a defect, which shows its traceback."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), None)
