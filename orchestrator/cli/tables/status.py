"""A sweep's status for people: a row a cell as far as that can be read at one look, else a row an arm and budget.

`mor-sweep status --cells` prints the rows of any sweep as plain columns: for grep, and for thousands of cells at once.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mor_core.units import budget_text
from orchestrator.records.console import Console
from orchestrator.records.status.states import CellState
from orchestrator.records.status.sweep_status import Status, counted, counts_text, is_running, state_text
from orchestrator.records.terminal import command_line, printable_label

PIPED_WIDTH = 120
"""Columns of the table where nothing says how wide the reader's window is."""

MOST_ROWS = 200
"""Of a table that is read as a whole; a sweep of more cells is shown by arm and budget."""

MOST_LINES = 10
"""Segments under way, and causes of failure, that are named under a table by arm and budget."""

COLUMNS = ("arm", "size", "budget", "seed", "steps", "loss", "loss_topk", "depth", "status")
WORDS = ("arm", "size", "status")
"""Columns that are no numbers."""

STATES = ("finished", "running", "pending", "failed", "diverged")


def status_view(status: Status) -> Table | Group:
    """What fits a screen or two: a row a cell of a small sweep, else a row an arm and budget, and what needs a look."""
    if len(status.cells) <= MOST_ROWS:
        return cells_table(status)
    return Group(summary_table(status), *(Text(line) for line in summary_lines(status)))


def cells_table(status: Status) -> Table:
    """One row a cell."""
    table = Table(title=counts_text(status))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in WORDS else "right")
    for row in _rows(status):
        table.add_row(*row)
    return table


def cell_lines(status: Status) -> Iterator[str]:
    """One line a cell under a line of names, in columns; what a cell's state is comes last."""
    rows = [COLUMNS, *(tuple(map(printable_label, row)) for row in _rows(status))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if name in WORDS else ">" for name in COLUMNS]
    layout = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides[:-1], widths, strict=False))
    return (f"{layout.format(*row[:-1])}  {row[-1]}" for row in rows)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The cells of one arm and budget."""

    arm: str
    budget: str
    states: Counter[str]
    best: CellState | None
    """Of the finished ones that with the least loss."""


def summary_table(status: Status) -> Table:
    """One row an arm and budget, or an arm where those are too many: how many cells are where, and the best of them."""
    parts = _parts(status)
    shown = [state for state in STATES if any(part.states[state] for part in parts)]
    table = Table(title=counts_text(status))
    for column in ("arm", "budget", "cells", *shown, "best loss", "at size"):
        table.add_column(column, justify="left" if column in ("arm", "at size") else "right")
    for part in parts:
        counts = [str(part.states[state] or "") for state in shown]
        best = ("", "") if part.best is None else (_number(part.best.loss, 4), part.best.size)
        table.add_row(part.arm, part.budget, str(part.states.total()), *counts, *best)
    return table


def summary_lines(status: Status) -> Iterator[str]:
    """Under the table by arm and budget: what is under way, what went wrong and why, and where the rows are."""
    cells = {cell.cell_id: cell for cell in status.cells}
    for each in status.under_way[:MOST_LINES]:
        cell = cells[each.cell_ids[0]]
        yield f"{cell.arm} {cell.size} seed {cell.seed}: {state_text(cell, each)} ({_cells(len(each.cell_ids))} wait)"
    yield from _more(len(status.under_way), "segments under way")
    causes: dict[str, list[CellState]] = defaultdict(list)
    for cell in status.cells:
        if cell.reason:
            causes[cell.reason].append(cell)
    for reason, stopped in list(causes.items())[:MOST_LINES]:
        states = counted(cell.status for cell in stopped)
        first = stopped[0]
        name = f"{first.arm}/{first.size}/{budget_text(first.budget)}/{first.seed}"
        yield f"{states}: {reason} ({name}{' and others' if len(stopped) > 1 else ''})"
    yield from _more(len(causes), "causes")
    yield f"a line for each of the {len(cells):,} cells: {command_line('status', status.name, '--cells')}"


def output_console() -> Console:
    """stdout, of a fixed width where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)


def _rows(status: Status) -> list[tuple[str, ...]]:
    under_way = status.by_cell()
    budgets = {budget: budget_text(budget) for budget in {cell.budget for cell in status.cells}}
    return [
        (
            cell.arm,
            cell.size,
            budgets[cell.budget],
            str(cell.seed),
            str(cell.steps),
            _number(cell.loss, 4),
            _number(cell.loss_topk, 4),
            _number(cell.depth_mean, 2),
            state_text(cell, under_way.get(cell.cell_id)),
        )
        for cell in status.cells
    ]


def _parts(status: Status) -> list[_Part]:
    """By arm and budget as planned; by arm alone where that would be more rows than one can read."""
    grouped: dict[tuple[str, int | None], list[CellState]] = defaultdict(list)
    for cell in status.cells:
        grouped[cell.arm, cell.budget].append(cell)
    if len(grouped) > MOST_ROWS:
        grouped.clear()
        for cell in status.cells:
            grouped[cell.arm, None].append(cell)
    under_way = status.by_cell()
    arms = {arm: place for place, arm in enumerate(dict.fromkeys(cell.arm for cell in status.cells))}
    return [
        _Part(
            arm=arm,
            budget="all" if budget is None else budget_text(budget),
            states=Counter(
                "running" if is_running(cell, under_way.get(cell.cell_id)) else cell.status for cell in cells
            ),
            best=_best(cells),
        )
        for (arm, budget), cells in sorted(grouped.items(), key=lambda each: (arms[each[0][0]], each[0][1] or 0))
    ]


def _best(cells: Sequence[CellState]) -> CellState | None:
    finished = [cell for cell in cells if cell.loss is not None]
    return min(finished, key=lambda cell: cell.loss or 0.0, default=None)


def _more(count: int, what: str) -> Iterator[str]:
    if count > MOST_LINES:
        yield f"and {count - MOST_LINES} more {what}"


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
