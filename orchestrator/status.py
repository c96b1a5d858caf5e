"""Where every cell of a sweep stands at one moment, from the files of its results folder alone, and as a table."""

from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from orchestrator.budgets import budget_text
from orchestrator.drivers import running_drivers
from orchestrator.records import table
from orchestrator.revisions import Sweep, load_sweep
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


@dataclass(frozen=True, kw_only=True)
class Status:
    """A sweep at one moment."""

    name: str
    """Its name."""
    runs: pl.DataFrame
    """Its run table."""
    under_way: tuple[UnderWay, ...]
    """What has been begun and is not published."""
    is_running: bool
    """Whether a driver or a worker is at work, as far as this host can see."""

    def of_cell(self, cell_id: str) -> UnderWay | None:
        """What a cell waits for, where that has been begun."""
        return next((each for each in self.under_way if cell_id in each.cell_ids), None)


def read_status(store: Store, name: str | None) -> Status:
    """A sweep, or the last one used, as it stands. Raises what `load_sweep` raises."""
    sweep = load_sweep(store, name)
    driven = bool(running_drivers(store, sweep.name))  # Before the table: what ends meanwhile is in it.
    under_way = segments_under_way(store, sweep)
    return Status(
        name=sweep.name,
        runs=table(store, sweep),
        under_way=tuple(under_way),
        is_running=driven or any(each.running for each in under_way),
    )


def segments_under_way(store: Store, sweep: Sweep) -> list[UnderWay]:
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


def state_text(row: dict[str, Any], under_way: UnderWay | None) -> str:
    """Such as "running: stable at step 40 of 120", or what stopped the cell."""
    if row["status"] == "diverged":  # Its reason says so itself.
        return row["reason"]
    if row["reason"] or under_way is None:
        return f"{row['status']}: {row['reason']}" if row["reason"] else row["status"]
    state = "running" if under_way.running else row["status"]
    return f"{state}: {under_way.kind} at step {under_way.step} of {under_way.stop_step}"


def counts_text(status: Status) -> str:
    """Such as "toy: 3 finished, 9 pending"."""
    counts = status.runs.group_by("status").len().sort("status")
    return f"{status.name}: {', '.join(f'{count} {state}' for state, count in counts.iter_rows())}"


def status_table(status: Status) -> Table:
    """One row a cell."""
    under_way = {cell_id: each for each in status.under_way for cell_id in each.cell_ids}
    table = Table(title=counts_text(status))
    for column in ("arm", "size", "budget", "seed", "steps", "loss", "loss_topk", "depth", "status"):
        table.add_column(column, justify="left" if column in ("arm", "size", "status") else "right")
    for row in status.runs.iter_rows(named=True):
        table.add_row(
            row["arm"],
            row["size"],
            budget_text(int(row["budget"])),
            str(row["seed"]),
            str(row["steps"]),
            _number(row["loss"], 4),
            _number(row["loss_topk"], 4),
            _number(row["depth_mean"], 2),
            state_text(row, under_way.get(row["cell_id"])),
        )
    return table


def output_console() -> Console:
    """stdout, of a fixed width where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)


def _number(value: Any, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
