"""`mor-sweep status` and `mor-sweep logs`: where every cell stands, and what its attempts said. Imports when called."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Results

if TYPE_CHECKING:
    from orchestrator.store import Store

INTERRUPTED = 130


def status(
    sweep: Annotated[str | None, typer.Argument(help="The sweep; the last one run by default.")] = None,
    results: Results = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the run table as JSON.")] = False,
    cells: Annotated[bool, typer.Option("--cells", help="Print a plain line for each cell, however many.")] = False,
    follow: Annotated[bool, typer.Option("--watch", help="Follow the sweep until nothing runs, or Ctrl-C.")] = False,
) -> None:
    """Say which cells are finished, pending, failed or diverged, with their losses or reasons.

    Sweeps of more than 200 cells are shown by arm and budget.
    """
    from orchestrator.status import read_status
    from orchestrator.status_tables import cell_lines, output_console, status_view
    from orchestrator.store import Store

    if as_json and (follow or cells):
        raise typer.BadParameter(f"--json prints the table once: leave {'--watch' if follow else '--cells'} out")
    store = Store(root=results)
    if as_json:
        typer.echo(_status_json(store, sweep))
        return
    if follow:
        from orchestrator.watch import watch

        try:
            shown = watch(store, sweep)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    else:
        shown = read_status(store, sweep)
    if cells:
        typer.echo("\n".join(cell_lines(shown)))
    else:
        output_console().print(status_view(shown))
    if follow:
        typer.echo(f"nothing runs the sweep {shown.name}", err=True)


def _status_json(store: "Store", sweep: str | None) -> str:
    """The run table, with every column, and what is under way."""
    import json

    from orchestrator.records import table
    from orchestrator.revisions import load_sweep
    from orchestrator.status import read_status

    under_way = read_status(store, sweep).under_way  # Before the table: what ends meanwhile is in it.
    loaded = load_sweep(store, sweep)
    data = {
        "name": loaded.name,
        "runs": table(store, loaded).to_dicts(),
        "under_way": [asdict(each) for each in under_way],
    }
    return json.dumps({"schema": "mor-sweep.runs/1", "data": data})


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
