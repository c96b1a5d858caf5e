"""`mor-sweep ui`, `mlflow sync` and `mlflow export`: browse the runs, keep MLflow up to date, read other experiments.
Imports when called."""

import contextlib
import signal
import sys
import time
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import AsJson, Results, SweepArgument, open_sweep, print_json, say_next
from orchestrator.cli.tables.help import Verbs

if TYPE_CHECKING:
    from orchestrator.records.revisions import Sweep
    from orchestrator.store.store import Store

MOST_FILTERS = 12
"""Links to some of the runs that are printed; --json has all."""

mlflow_app = Verbs("Bring MLflow in line with the results, or read from it.")


@mlflow_app.verb("sync", "mor-sweep mlflow sync isoflop-cpu")
def sync(
    sweep: SweepArgument = None,
    results: Results = Path("results"),
    check: Annotated[
        bool, typer.Option("--check", help="Say whether MLflow equals the results; change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make MLflow show a sweep exactly as the results have it.

    What is missing there is built anew.
    """
    from orchestrator.records.status.verified_cells import shown_lines
    from orchestrator.tracking.cursor import public_uri, store_text, tracking_uri
    from orchestrator.tracking.mirror import sync as sync_sweep
    from orchestrator.tracking.server import check_answers

    store, loaded = open_sweep(results, sweep)
    uri = tracking_uri(store, loaded.name)
    check_answers(uri)
    if check:
        _check(store, loaded, uri, as_json)
        return
    report = sync_sweep(store, loaded, uri, thorough=True)
    for line in shown_lines(list(report.problems)):
        typer.echo(f"left out: {line}", err=True)
    if as_json:
        document = {"sweep": loaded.name, "uri": public_uri(uri), "cells": len(loaded.cells), **asdict(report)}
        print_json("mor-sweep.mlflow-sync/1", document)
    else:
        typer.echo(
            f"{loaded.name}: {len(loaded.cells)} cells, {report.created} new runs, {report.points:,} points sent to "
            f"{store_text(uri)}"
        )
    if report.problems:
        raise typer.Exit(1)
    if not as_json:
        say_next(["ui", loaded.name], results=results)


@mlflow_app.verb("export", "mor-sweep mlflow export my-runs --uri sqlite:///mlflow.db --out runs.csv")
def export(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Any experiment, of this tool or another.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="A new .csv or .parquet file, a row a run.")],
    uri: Annotated[str, typer.Option(metavar="URI", envvar="MLFLOW_TRACKING_URI", help="A server, or sqlite:///FILE.")],
) -> None:
    """Write an experiment of any MLflow server as a run table.

    A row holds a run's parameters and last metrics; `fit --table` and the others read it.
    """
    from orchestrator.tracking.cursor import absolute_uri, check_uri
    from orchestrator.tracking.export import export_experiment
    from orchestrator.tracking.server import check_answers

    check_uri(uri, "--uri")
    uri = absolute_uri(uri)
    check_answers(uri)
    runs = export_experiment(uri, experiment, out)
    typer.echo(f"{experiment}: {len(runs)} runs, {len(runs.columns)} columns in {out}", err=True)
    say_next(["fit", "--table", str(out), "--columns", "params=…,tokens=…,loss=…"])


def _check(store: "Store", sweep: "Sweep", uri: str, as_json: bool) -> None:
    """Print each difference; exit code 1 where there is one."""
    from orchestrator.records.status.verified_cells import VerifiedCells, fault_lines, shown_lines
    from orchestrator.tracking.check import differences
    from orchestrator.tracking.cursor import public_uri, store_text

    unequal, left_out = differences(store, sweep, uri), fault_lines(VerifiedCells(store, sweep).faults())
    if as_json:
        document = {"sweep": sweep.name, "uri": public_uri(uri), "cells": len(sweep.cells)}
        print_json("mor-sweep.mlflow-check/1", document | {"differences": unequal, "left_out": left_out})
        raise typer.Exit(1 if unequal or left_out else 0)
    for line in unequal:
        typer.echo(f"differs: {line}", err=True)
    for line in shown_lines(left_out):
        typer.echo(f"left out: {line}", err=True)
    if unequal:
        say_next(["mlflow", "sync", sweep.name], results=store.root)
    if unequal or left_out:
        raise typer.Exit(1)
    typer.echo(f"{sweep.name}: MLflow at {store_text(uri)} equals the results of {len(sweep.cells)} cells")
    say_next(["ui", sweep.name], results=store.root)


def ui(
    sweep: SweepArgument = None,
    results: Results = Path("results"),
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="5000 if free, else any free one.")] = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a sweep's runs in the MLflow UI, on this machine.

    Fits, figures and the report are brought there first. The page is served to this machine only, until Ctrl-C.
    """
    from orchestrator.tracking.server import check_answers, running_server, serving

    store, loaded = open_sweep(results, sweep)
    name, server = loaded.name, running_server(store, loaded.name)
    if server:
        check_answers(server)
    _bring_up_to_date(store, loaded)
    if server:
        _show(server, store, name, browser, as_json)
        return
    for kind in (signal.SIGTERM, signal.SIGHUP):  # However this command is ended, the server ends with it.
        signal.signal(kind, _exit)
    typer.echo(f"starting the MLflow UI of {name} ...", err=True)
    with serving(store, name, port) as served:
        _show(served.address, store, name, browser, as_json)
        typer.echo("Ctrl-C ends it.", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            while served.process.poll() is None:  # Not wait(): Ctrl-C would not wake it once polars is imported.
                time.sleep(0.2)


def _bring_up_to_date(store: "Store", sweep: "Sweep") -> None:
    """What was fitted and drawn since the last pass; where MLflow does not take it, a line says so."""
    from orchestrator.records.status.verified_cells import shown_lines
    from orchestrator.tracking.connection import DamagedStore, MirrorError
    from orchestrator.tracking.cursor import is_current, tracking_uri
    from orchestrator.tracking.mirror import sync as sync_sweep

    uri = tracking_uri(store, sweep.name)
    if is_current(store, sweep, uri):
        return
    try:
        problems = sync_sweep(store, sweep, uri).problems
    except DamagedStore:
        raise
    except MirrorError as error:
        problems = (f"{error}: what is shown may be older than the results",)
    for line in shown_lines(list(problems)):
        typer.echo(f"left out: {line}", err=True)


def _show(address: str, store: "Store", name: str, browser: bool, as_json: bool) -> None:
    from orchestrator.tracking.server import chart_page, filters, isoflop_page, runs_page

    charts, runs = chart_page(address, store, name), runs_page(address, store, name)
    picture, parts = isoflop_page(address, store, name), filters(address, store, name)
    if as_json:
        content = {"sweep": name, "runs": runs, "charts": charts, "isoflop": picture or None}
        content |= {"filters": [part.search for part in parts], "filtered": [asdict(part) for part in parts]}
        print_json("mor-sweep.ui/1", content)
        sys.stdout.flush()
    else:
        typer.echo(f"runs    {runs}")
        typer.echo(f"charts  {charts}")
        if picture:
            typer.echo(f"isoflop {picture}")
        for part in parts[:MOST_FILTERS]:
            typer.echo(f"{part.name:7s} {part.page}")
        say_next(["fit", name], ["report", name], results=store.root)
    if browser:
        webbrowser.open(charts)


def _exit(number: int, _frame: object) -> None:
    sys.exit(128 + number)
