"""A sweep that another process runs, followed: one live table on a terminal, one line per change elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from orchestrator.budgets import budget_text
from orchestrator.status import Status, counts_text, output_console, read_status, state_text, status_table
from orchestrator.store import Store

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
        return _follow(store, name, lambda status: live.update(status_table(status), refresh=True))


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
        """First how many cells are in which state, then a line for each cell whose state is another than was said."""
        states = {row["cell_id"]: _plain_state(status, row) for row in status.runs.iter_rows(named=True)}
        if self._said is None:
            self._print(counts_text(status))
            self._said = {name: state for name, state in states.items() if not state.startswith("running")}
        done = status.runs.filter(status.runs["status"] == "finished").height
        for row in status.runs.iter_rows(named=True):
            state = states[row["cell_id"]]
            if self._said.get(row["cell_id"]) != state:
                what = f"{row['arm']} {row['size']} at {budget_text(int(row['budget']))} seed {row['seed']}"
                self._print(f"[{done}/{status.runs.height}] {what}: {state}")
        self._said = states

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def _plain_state(status: Status, row: dict) -> str:
    """Without steps: they would be a change at every look."""
    if row["status"] == "finished":
        return f"finished, loss {row['loss']:.4f}"
    under_way = status.of_cell(row["cell_id"])
    if under_way and under_way.running and row["status"] == "pending":
        return f"running: {under_way.kind} to step {under_way.stop_step}"
    return state_text(row, None)
