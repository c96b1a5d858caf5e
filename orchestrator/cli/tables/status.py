"""A sweep's status for people: a row for each cell of a small sweep, a row for each arm and budget of a larger one.

`mor-sweep status --cells` prints the rows of any sweep as plain columns: for grep, and for thousands of cells at once.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Group
from rich.text import Text

from mor_core.units import budget_text, count_text, counted_text
from orchestrator.cli.tables.listing import Column, Listing, listing_of
from orchestrator.records.status.states import CellState
from orchestrator.records.status.sweep_status import Status, counted, counts_text, is_running, state_text, work_text
from orchestrator.records.terminal import command_line, printable_label

MOST_ROWS = 200
"""Of a table that is read as a whole; a sweep of more cells is shown by arm and budget."""

MOST_LINES = 10
"""Segments under way, and causes of failure, that are named under a table by arm and budget."""

COLUMNS = (
    Column(name="arm", is_text=True),
    Column(name="size", is_text=True),
    Column(name="budget"),
    Column(name="seed"),
    Column(name="N", spare=4),
    Column(name="tokens", spare=3),
    Column(name="steps", spare=2),
    Column(name="loss"),
    Column(name="top-k", spare=1),
    Column(name="depth", spare=5),
    Column(name="status", wraps=True),
)
BEST = "*"
"""After the lowest loss of an arm at a budget; a blank after the others, so that numbers stay below each other."""

BEST_MEANS = f"{BEST} the lowest loss of its arm at its budget"

STATES = ("finished", "running", "pending", "failed", "diverged")


def status_view(status: Status, results: Path) -> Listing | Group:
    """What fits a screen or two: a row a cell of a small sweep, else a row an arm and budget, and what needs a look.
    Commands that it names read `results`."""
    if len(status.cells) <= MOST_ROWS:
        return cells_table(status)
    return Group(summary_table(status), *(Text(line) for line in summary_lines(status, results)))


def cells_table(status: Status) -> Listing:
    """One row a cell, by arm, size, budget and seed, whichever plan it is of."""
    best = {cell.cell_id for cell in map(_best, _by_arm_and_budget(status.cells).values()) if cell is not None}
    rows = tuple(_rows(status, best))
    return Listing(columns=COLUMNS, rows=rows, title=_title(status), footer=BEST_MEANS if best else "")


def cell_lines(status: Status) -> Iterator[str]:
    """One line a cell under a line of names, in columns; what a cell's state is comes last."""
    listing = cells_table(status)
    return iter([*listing.head_lines(math.inf), *replace(listing, footer="").body_lines(math.inf)])


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The cells of one arm and budget."""

    arm: str
    budget: str
    states: Counter[str]
    best: CellState | None
    """Of the finished ones that with the least loss."""


def summary_table(status: Status) -> Listing:
    """One row an arm and budget, or an arm where those are too many: how many cells are where, and the best of them."""
    parts = _parts(status)
    shown = [state for state in STATES if any(part.states[state] for part in parts)]
    rows: list[tuple[str, ...]] = []
    for part in parts:
        counts = [str(part.states[state]) for state in shown]
        best = ("", "") if part.best is None else (_number(part.best.loss, 4), part.best.size)
        rows.append((part.arm, part.budget, str(part.states.total()), *counts, *best))
    names = ("arm", "budget", "cells", *shown, "best loss", "at size")
    return listing_of(names, rows, words=("arm", "at size"), title=_title(status))


def summary_lines(status: Status, results: Path) -> Iterator[str]:
    """Under the table by arm and budget: what is under way, what went wrong and why, and where the rows are."""
    cells = {cell.cell_id: cell for cell in status.cells}
    for segment in status.under_way[:MOST_LINES]:
        cell, waiting = cells[segment.cell_ids[0]], counted_text(len(segment.cell_ids), "cell")
        yield f"{cell.arm} {cell.size} seed {cell.seed}: {state_text(cell, segment)} ({waiting} wait)"
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
    command = command_line("status", status.name, "--cells", results=results)
    yield f"a line for each of the {len(cells):,} cells: {command}"


def _rows(status: Status, best: Set[str]) -> Iterator[tuple[str, ...]]:
    """`best` holds the ids of the cells whose loss is marked."""
    under_way = status.by_cell()
    arms = {arm: place for place, arm in enumerate(dict.fromkeys(cell.arm for cell in status.cells))}
    for cell in sorted(status.cells, key=lambda cell: (arms[cell.arm], cell.params, cell.budget, cell.seed)):
        loss = _number(cell.loss, 4)
        yield (
            cell.arm,
            cell.size,
            budget_text(cell.budget),
            str(cell.seed),
            count_text(cell.params),
            count_text(cell.tokens),
            f"{cell.steps:,}",
            loss and loss + (BEST if cell.cell_id in best else " "),
            _number(cell.loss_topk, 4) if cell.loss_topk != cell.loss else "",
            _number(cell.depth_mean, 2),
            printable_label(state_text(cell, under_way.get(cell.cell_id))),
        )


def _title(status: Status) -> str:
    return "\n".join(filter(None, (counts_text(status), work_text(status))))


def _by_arm_and_budget(cells: Iterable[CellState]) -> dict[tuple[str, int], list[CellState]]:
    grouped: dict[tuple[str, int], list[CellState]] = defaultdict(list)
    for cell in cells:
        grouped[cell.arm, cell.budget].append(cell)
    return grouped


def _parts(status: Status) -> list[_Part]:
    """By arm and budget as planned; by arm alone where that would be more rows than one can read."""
    grouped: dict[tuple[str, int | None], list[CellState]] = {**_by_arm_and_budget(status.cells)}
    if len(grouped) > MOST_ROWS:
        grouped.clear()
        for cell in status.cells:
            grouped.setdefault((cell.arm, None), []).append(cell)
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
        for (arm, budget), cells in sorted(grouped.items(), key=lambda group: (arms[group[0][0]], group[0][1] or 0))
    ]


def _best(cells: Sequence[CellState]) -> CellState | None:
    finished = [cell for cell in cells if cell.loss is not None]
    return min(finished, key=lambda cell: cell.loss or 0.0, default=None)


def _more(count: int, noun: str) -> Iterator[str]:
    if count > MOST_LINES:
        yield f"and {count - MOST_LINES} more {noun}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
