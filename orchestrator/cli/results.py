"""`mor-sweep status`: where every cell of a sweep stands, from the files of its results folder alone."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Results

if TYPE_CHECKING:
    import polars as pl

    from orchestrator.revisions import Sweep
    from orchestrator.store import Store

PIPED_WIDTH = 120
"""Columns of the table where nothing says how wide the reader's window is."""


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """A segment that has been begun and is not published, and the cells that wait for it next."""

    segment_id: str
    """Its content id."""
    kind: str
    """stable, decay or evaluate."""
    step: int
    """Steps taken when its attempt last said so."""
    stop_step: int
    """The step at which it ends."""
    running: bool
    """Whether a process of this host is at work on it; always False where another host's locks are not seen."""
    cell_ids: tuple[str, ...]
    """Cells."""


def status(
    sweep: Annotated[str | None, typer.Argument(help="The sweep; the last one run by default.")] = None,
    results: Results = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the run table as JSON.")] = False,
) -> None:
    """Say which cells are finished, pending, failed or diverged, with their losses or reasons."""
    from orchestrator.records import table
    from orchestrator.revisions import load_sweep
    from orchestrator.store import Store

    store = Store(root=results)
    loaded = load_sweep(store, sweep)
    runs = table(store, loaded)
    under_way = segments_under_way(store, loaded)
    if as_json:
        import json

        data = {"name": loaded.name, "runs": runs.to_dicts(), "under_way": [asdict(each) for each in under_way]}
        typer.echo(json.dumps({"schema": "mor-sweep.runs/1", "data": data}))
        return
    _print(loaded.name, runs, {name: each for each in under_way for name in each.cell_ids})


def segments_under_way(store: "Store", sweep: "Sweep") -> list[UnderWay]:
    """The first unfinished segment of each unfinished cell, where an attempt at it has taken a step; each once."""
    cells: dict[str, list[str]] = {}
    for cell in sweep.cells:
        missing = [segment.id for segment in sweep.chain(cell) if not store.is_done(segment.id)]
        if missing and not store.is_done(str(cell.evaluate_segment)):
            cells.setdefault(missing[0], []).append(str(cell.cell_id))
    reached = {name: store.progress(name) for name in cells}
    return [
        UnderWay(
            segment_id=name,
            kind=sweep.segments[name].kind,
            step=progress.step,
            stop_step=progress.stop_step,
            running=store.is_locked(name),
            cell_ids=tuple(cells[name]),
        )
        for name, progress in reached.items()
        if progress
    ]


def _state(row: dict[str, Any], under_way: UnderWay | None) -> str:
    """Such as "running: stable at step 40 of 120", or what stopped the cell."""
    if row["status"] == "diverged":  # Its reason says so itself.
        return row["reason"]
    if row["reason"] or under_way is None:
        return f"{row['status']}: {row['reason']}" if row["reason"] else row["status"]
    state = "running" if under_way.running else row["status"]
    return f"{state}: {under_way.kind} at step {under_way.step} of {under_way.stop_step}"


def _print(name: str, runs: "pl.DataFrame", under_way: dict[str, UnderWay]) -> None:
    from rich.console import Console
    from rich.table import Table

    from orchestrator.budgets import budget_text

    counts = {row["status"]: row["len"] for row in runs.group_by("status").len().sort("status").to_dicts()}
    table = Table(title=f"{name}: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    for column in ("arm", "size", "budget", "seed", "steps", "loss", "loss_topk", "depth", "status"):
        table.add_column(column, justify="left" if column in ("arm", "size", "status") else "right")
    for row in runs.iter_rows(named=True):
        table.add_row(
            row["arm"],
            row["size"],
            budget_text(int(row["budget"])),
            str(row["seed"]),
            str(row["steps"]),
            _number(row["loss"], 4),
            _number(row["loss_topk"], 4),
            _number(row["depth_mean"], 2),
            _state(row, under_way.get(row["cell_id"])),
        )
    console = Console()
    console = console if console.is_terminal else Console(width=PIPED_WIDTH)
    console.print(table)


def _number(value: Any, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
