"""`mor-sweep status` and `mor-sweep logs`: where every cell stands, and what its attempts said. Imports when called."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Results

INTERRUPTED = 130


def status(
    sweep: Annotated[str | None, typer.Argument(help="The sweep; the last one run by default.")] = None,
    results: Results = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the run table as JSON.")] = False,
    follow: Annotated[bool, typer.Option("--watch", help="Follow the sweep until nothing runs, or Ctrl-C.")] = False,
) -> None:
    """Say which cells are finished, pending, failed or diverged, with their losses or reasons."""
    from orchestrator.status import output_console, read_status, status_table
    from orchestrator.store import Store
    from orchestrator.watch import watch

    if as_json and follow:
        raise typer.BadParameter("--json prints the table once: leave --watch out")
    store = Store(root=results)
    try:
        shown = watch(store, sweep) if follow else read_status(store, sweep)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        import json

        data = {
            "name": shown.name,
            "runs": shown.runs.to_dicts(),
            "under_way": [asdict(each) for each in shown.under_way],
        }
        typer.echo(json.dumps({"schema": "mor-sweep.runs/1", "data": data}))
        return
    output_console().print(status_table(shown))
    if follow:
        typer.echo(f"nothing runs the sweep {shown.name}", err=True)


def logs(
    cell: Annotated[
        str, typer.Argument(metavar="CELL", help="arm/size/budget[/seed] as tables show it, or the start of its id.")
    ],
    sweep: Annotated[str | None, typer.Option(help="The sweep; the last one run by default.")] = None,
    results: Results = Path("results"),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the cell has ended, or Ctrl-C.")] = False,
) -> None:
    """Print what the attempts at a cell said: why it failed, their logs, their last metrics."""
    from orchestrator.cell_names import find_cell
    from orchestrator.logs import cell_lines, follow_cell
    from orchestrator.revisions import load_sweep
    from orchestrator.store import Store

    store = Store(root=results)
    loaded = load_sweep(store, sweep)
    found = find_cell(loaded, cell)
    for line in cell_lines(store, loaded, found):
        typer.echo(line)
    if follow:
        try:
            for line in follow_cell(store, loaded, found):
                typer.echo(line)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
