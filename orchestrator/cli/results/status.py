"""`mor-sweep status` and `mor-sweep logs`: where every cell stands, and what its attempts said. Imports when called."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import (
    AsJson,
    CellArgument,
    Results,
    SweepArgument,
    SweepOption,
    open_results,
    open_sweep,
    print_json,
    say_next,
)

if TYPE_CHECKING:
    from orchestrator.records.status.sweep_status import Status
    from orchestrator.store.store import Store

INTERRUPTED = 130


def status(
    sweep: SweepArgument = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
    cells: Annotated[bool, typer.Option("--cells", help="Print a plain line for each cell, however many.")] = False,
    follow: Annotated[bool, typer.Option("--watch", help="Follow the sweep until nothing runs, or Ctrl-C.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Also the cells that the sweep had under other settings.")
    ] = False,
) -> None:
    """Say which cells are finished, running, pending or failed.

    Sweeps of more than 200 cells are shown by arm and budget.
    """
    from orchestrator.cli.tables.listing import output_console, show
    from orchestrator.cli.tables.status import cell_lines, status_view
    from orchestrator.records.status.sweep_status import read_status

    if as_json and (follow or cells):
        raise typer.BadParameter(f"--json prints the table once: leave {'--watch' if follow else '--cells'} out")
    store = open_results(results)
    if as_json:
        print_json("mor-sweep.runs/1", _status_data(store, sweep, every=every))
        return
    if follow:
        from orchestrator.cli.tables.live_status import watch

        try:
            shown = watch(store, sweep)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    else:
        shown = read_status(store, sweep)
    others = [read_status(store, shown.name, settings_id) for settings_id in shown.others] if every else []
    for view in (shown, *others):
        if view is not shown:
            typer.echo(f"under other settings ({view.settings_id[:12]}), in no table or fit of {shown.name}:")
        if cells:
            typer.echo("\n".join(cell_lines(view)))
        else:
            show(output_console(), status_view(view, results))
    if shown.num_others and not every:
        typer.echo(f"{shown.num_others} cells under other settings: mor-sweep status {shown.name} --all", err=True)
    if follow:
        typer.echo(f"nothing runs the sweep {shown.name}", err=True)
    if commands := _after(shown):
        say_next(*commands, results=results)
    elif not shown.is_running:
        typer.echo("next: the sweep's own command goes on with what is pending", err=True)


def _after(shown: "Status") -> list[list[str]]:
    """What a sweep in this state asks for; nothing where that is its own command, which is not known here."""
    from mor_core.units import budget_text

    if shown.is_running:
        return [["status", shown.name, "--watch"]]
    for cell in shown.cells:
        if cell.status in ("failed", "diverged"):
            name = f"{cell.arm}/{cell.size}/{budget_text(cell.budget)}/{cell.seed}"
            return [["logs", name, "--sweep", shown.name], ["retry", "--sweep", shown.name]]
    if any(cell.status == "pending" for cell in shown.cells):
        return []
    return [[verb, shown.name] for verb in ("fit", "report", "ui")]


def _status_data(store: "Store", sweep: str | None, *, every: bool) -> dict[str, Any]:
    """The run table, with every column, what is under way, how much is done, and how many cells have other settings;
    `every` names them too, with their settings."""
    from orchestrator.records.revisions import load_sweep
    from orchestrator.records.status.sweep_status import read_status
    from orchestrator.records.table import table

    shown = read_status(store, sweep)  # Before the table: what ends meanwhile is in it.
    loaded = load_sweep(store, sweep)
    data = {
        "name": loaded.name,
        "runs": table(store, loaded).to_dicts(),
        "under_way": [asdict(segment) for segment in shown.under_way],
        "num_under_other_settings": shown.num_others,
        "work": asdict(shown.work) if shown.work else None,
    }
    if every:
        data["under_other_settings"] = [
            {
                "settings_id": settings_id,
                "cells": [asdict(cell) for cell in read_status(store, loaded.name, settings_id).cells],
            }
            for settings_id in shown.others
        ]
    return data


def logs(
    cell: CellArgument,
    sweep: SweepOption = None,
    results: Results = Path("results"),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the cell has ended, or Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what the attempts at a cell wrote, and why it failed.

    Their logs and their last metrics.
    """
    from orchestrator.records.cell_names import find_cell
    from orchestrator.records.logs import cell_lines, cell_record, follow_cell

    if as_json and follow:
        raise typer.BadParameter("--json prints what is there once: leave --follow out")
    store, loaded = open_sweep(results, sweep)
    recorded_cell = find_cell(loaded, cell)
    if as_json:
        print_json("mor-sweep.logs/1", cell_record(store, loaded, recorded_cell))
        return
    for line in cell_lines(store, loaded, recorded_cell):
        typer.echo(line)
    if follow:
        try:
            for line in follow_cell(store, loaded, recorded_cell):
                typer.echo(line)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    say_next(["status", loaded.name], results=results)
