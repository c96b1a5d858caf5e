"""A sweep that another process runs, followed: one live table on a terminal, one line per change elsewhere."""

import time
from collections.abc import Callable

from rich.live import Live

from mor_core.units import budget_text
from orchestrator.cli.tables.listing import output_console
from orchestrator.cli.tables.status import status_view
from orchestrator.records.console import Console
from orchestrator.records.status.states import CellState
from orchestrator.records.status.sweep_status import Status, UnderWay, counts_text, is_running, read_status, state_text
from orchestrator.store.store import Store

PASS_SECONDS = 1.0

BUSY_SHARE = 4
"""A pause lasts at least this many times what looking took: a watcher must not slow the sweep down."""


def watch(store: Store, name: str | None) -> Status:
    """Show a sweep until nothing runs; returns its last status. Ctrl-C ends it with KeyboardInterrupt."""
    console = output_console()
    if not console.is_terminal:
        lines = _Lines(console=console)
        return _follow(store, name, lines.say)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        return _follow(store, name, lambda status: live.update(status_view(status, store.root), refresh=True))


def _follow(store: Store, name: str | None, show: Callable[[Status], None]) -> Status:
    while True:
        started = time.monotonic()
        status = read_status(store, name)
        show(status)
        if not status.is_running:
            return status
        time.sleep(max(PASS_SECONDS, BUSY_SHARE * (time.monotonic() - started)))


class _Lines:
    """Says what has changed since it was asked last."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, str] | None = None

    def say(self, status: Status) -> None:
        """First how many cells of a running sweep are in which state, then a line for each cell whose state is
        another than was said."""
        under_way = status.by_cell()
        states = {cell.cell_id: _plain_state(cell, under_way.get(cell.cell_id)) for cell in status.cells}
        if self._said is None:
            if status.is_running:  # Of one at rest the whole table follows, under the same words.
                self._print(counts_text(status))
            self._said = {name: state for name, state in states.items() if not state.startswith("running")}
        done = sum(cell.status == "finished" for cell in status.cells)
        for cell in status.cells:
            state = states[cell.cell_id]
            if self._said.get(cell.cell_id) != state:
                cell_text = f"{cell.arm} {cell.size} at {budget_text(cell.budget)} seed {cell.seed}"
                self._print(f"[{done}/{len(status.cells)}] {cell_text}: {state}")
        self._said = states

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def _plain_state(cell: CellState, under_way: UnderWay | None) -> str:
    """Without steps: they would be a change at every look."""
    if cell.loss is not None:
        return f"finished, loss {cell.loss:.4f}"
    if under_way and is_running(cell, under_way):
        return f"running: {under_way.kind} to step {under_way.stop_step}"
    return state_text(cell, None)
