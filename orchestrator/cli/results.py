"""`mor-sweep status`: where every cell of a sweep stands, from the files of its results folder alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import polars as pl

PIPED_WIDTH = 120
"""Columns of the table where nothing says how wide the reader's window is."""


def status(
    sweep: Annotated[str | None, typer.Argument(help="The sweep; the last one run by default.")] = None,
    results: Annotated[Path, typer.Option(help="The results folder.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the run table as JSON.")] = False,
) -> None:
    """Say which cells are finished, pending, failed or diverged, with their losses or reasons."""
    from orchestrator.records import table
    from orchestrator.revisions import load_sweep
    from orchestrator.store import Store

    store = Store(root=results)
    loaded = load_sweep(store, sweep)
    runs = table(store, loaded)
    if as_json:
        import json

        typer.echo(json.dumps({"schema": "mor-sweep.runs/1", "data": {"name": loaded.name, "runs": runs.to_dicts()}}))
        return
    _print(loaded.name, runs)


def _print(name: str, runs: "pl.DataFrame") -> None:
    from rich.console import Console
    from rich.table import Table

    from orchestrator.budgets import budget_text

    counts = {row["status"]: row["len"] for row in runs.group_by("status").len().sort("status").to_dicts()}
    table = Table(title=f"{name}: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    for column in ("arm", "size", "budget", "seed", "steps", "loss", "loss_topk", "depth", "status"):
        table.add_column(column, justify="left" if column in ("arm", "size", "status") else "right")
    for row in runs.iter_rows(named=True):
        state = row["status"] if not row["reason"] else f"{row['status']}: {row['reason']}"
        table.add_row(
            row["arm"],
            row["size"],
            budget_text(int(row["budget"])),
            str(row["seed"]),
            str(row["steps"]),
            _number(row["loss"], 4),
            _number(row["loss_topk"], 4),
            _number(row["depth_mean"], 2),
            state,
        )
    console = Console()
    console = console if console.is_terminal else Console(width=PIPED_WIDTH)
    console.print(table)


def _number(value: Any, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
