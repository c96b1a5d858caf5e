"""The command `mor-sweep`: its verbs, and how an error ends it.

A user's mistake is one sentence on stderr and an exit code, never a traceback: an error of `mor_core.errors` ends with
the code of its class. A file that the system refuses is a sentence too. Everything else is a defect and shows its
traceback (exit code 1).
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from mor_core.errors import MorSweepError, Refused, Unreachable, UserError
from orchestrator.cli import config, data
from orchestrator.cli.fits import advice, fit, forecast, plot, report, suggest
from orchestrator.cli.inference import evaluate, text
from orchestrator.cli.options import fix_in_flags
from orchestrator.cli.results import checks, control, status, tracking, transfer
from orchestrator.cli.tables.help import MOST_COLUMNS, Verbs, example_text
from orchestrator.cli.tables.usage import UsageError, usage_sentence
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

ABOUT = "From FLOP budgets to a compute-optimal frontier, for vanilla, recursive and routed transformers."

PANELS: dict[str, dict[str, tuple[Callable[..., Any] | Verbs, str]]] = {
    "Plan and train": {
        "isoflop": (isoflop.isoflop, "mor-sweep isoflop --preset cpu --dry-run"),
        "ablate": (ablate.ablate, "mor-sweep ablate kv --dry-run"),
        "pilot": (pilot.pilot, "mor-sweep pilot --preset cpu"),
        "tune": (tune.tune, "mor-sweep tune --preset cpu --trials 8"),
        "suggest": (suggest.suggest, "mor-sweep suggest isoflop-cpu"),
    },
    "Watch": {
        "status": (status.status, "mor-sweep status isoflop-cpu --watch"),
        "logs": (status.logs, "mor-sweep logs mor-2/23k/1e11"),
        "ui": (tracking.ui, "mor-sweep ui isoflop-cpu --open"),
        "cancel": (control.cancel, "mor-sweep cancel isoflop-cpu"),
        "retry": (control.retry, "mor-sweep retry --sweep isoflop-cpu"),
    },
    "Understand": {
        "fit": (fit.fit, "mor-sweep fit isoflop-cpu"),
        "report": (report.report, "mor-sweep report isoflop-cpu"),
        "table": (advice.table, "mor-sweep table isoflop-cpu --format latex"),
        "compare": (advice.compare, "mor-sweep compare isoflop-cpu"),
        "predict": (advice.predict, "mor-sweep predict isoflop-cpu --budget 1e12"),
        "forecast": (forecast.forecast, "mor-sweep forecast isoflop-cpu --budget 4e11"),
        "backtest": (forecast.backtest, "mor-sweep backtest --table runs.csv"),
        "lifetime": (advice.lifetime, "mor-sweep lifetime --target-loss 3.9 --served-tokens 1e9"),
        "plot": (plot.plot, "mor-sweep plot frontier isoflop-cpu"),
    },
    "Use trained cells": {
        "generate": (text.generate, "mor-sweep generate mor-2/23k/1e11 'def main('"),
        "throughput": (text.throughput, "mor-sweep throughput isoflop-cpu --batches 1,32"),
        "depth": (text.depth, "mor-sweep depth mor-2/23k/1e11"),
        "routing": (text.routing, "mor-sweep routing mor-2/23k/1e11"),
        "eval": (evaluate.evaluate, "mor-sweep eval --text mine=FILE"),
    },
    "Keep in order": {
        "doctor": (checks.doctor, "mor-sweep doctor"),
        "fsck": (checks.fsck, "mor-sweep fsck"),
        "gc": (control.gc, "mor-sweep gc --dry-run"),
        "export": (transfer.export, "mor-sweep export isoflop-cpu study.tar"),
        "import": (transfer.import_, "mor-sweep import study.tar"),
        "mlflow": (tracking.mlflow_app, "mor-sweep mlflow sync isoflop-cpu"),
    },
    "Text and sweep files": {
        "data": (data.data, "mor-sweep data info --preset cpu"),
        "config": (config.config, "mor-sweep config show --preset cpu --origin"),
    },
}
"""What `mor-sweep --help` lists, in this order: what one wants -> verb -> what it calls, and a command as an example.
Typer lists names of several verbs after all others, so they stand last here too."""

app = Verbs(
    ABOUT,
    epilog="Start with: mor-sweep isoflop --preset cpu --dry-run",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MOST_COLUMNS},
)
for _panel, _verbs in PANELS.items():
    for _name, (_called, _example) in _verbs.items():
        if isinstance(_called, Verbs):
            app.add_typer(_called, name=_name, rich_help_panel=_panel, epilog=example_text(_example))
        else:
            app.verb(_name, _example, _panel)(_called)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mor-sweep {version('mor-sweep')}")
        raise typer.Exit


@app.callback(help=ABOUT)
def verbs(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """What stands before the verb."""


@clean_streams()
def main() -> None:
    """Run the command line and exit."""
    try:
        code = app(prog_name="mor-sweep", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UsageError as error:
        _end(usage_sentence(error, sys.argv[1:]), EXIT_CODES[UserError])
    except typer.Abort:
        _end("not confirmed: nothing was done", UNEXPECTED)
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
