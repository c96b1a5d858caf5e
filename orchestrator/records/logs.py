"""What the attempts at a cell have said: why it failed first, then every attempt's files, from the store alone."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.planning.cells import Cell
from orchestrator.records.cell_names import cell_name
from orchestrator.records.revisions import Sweep
from orchestrator.records.table import table
from orchestrator.store.attempts import Attempt
from orchestrator.store.drivers import running_drivers
from orchestrator.store.store import Store

POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class CellAttempt:
    """One attempt at a segment of a cell."""

    title: str
    """Such as "stable to step 120, attempt 001-host-4711"."""
    attempt: Attempt
    """Its files."""


def cell_lines(store: Store, sweep: Sweep, cell: Cell) -> Iterator[str]:
    """Everything there is to read about a cell, the cause of a failure first."""
    row = _row(store, sweep, cell)
    state = row["status"] + (f": {row['reason']}" if row["reason"] else "")
    yield f"{cell_name(cell)} ({row['cell_id'][:12]}) {state}"
    attempts = cell_attempts(store, sweep, cell)
    if not attempts:
        yield "no attempt yet"
    for cell_attempt in attempts:
        yield ""
        yield f"== {cell_attempt.title}"
        yield from _attempt_lines(cell_attempt.attempt)


def cell_record(store: Store, sweep: Sweep, cell: Cell) -> dict[str, Any]:
    """The same as plain JSON values: the cell's row in short, and each attempt with its files."""
    row = _row(store, sweep, cell)
    return {
        "sweep": sweep.name,
        "cell": cell_name(cell),
        "cell_id": row["cell_id"],
        "status": row["status"],
        "reason": row["reason"],
        "attempts": [_attempt_record(cell_attempt) for cell_attempt in cell_attempts(store, sweep, cell)],
    }


def _row(store: Store, sweep: Sweep, cell: Cell) -> dict[str, Any]:
    return next(row for row in table(store, sweep).iter_rows(named=True) if row["cell_id"] == str(cell.cell_id))


def _attempt_record(cell_attempt: CellAttempt) -> dict[str, Any]:
    attempt, last = cell_attempt.attempt, _last_row(cell_attempt.attempt.metrics)
    return {
        "title": cell_attempt.title,
        "folder": str(attempt.folder),
        "failure": _read(attempt.failure),
        "interrupted": _read(attempt.interrupted),
        "log": _lines(attempt.log),
        "stacks": _lines(attempt.stacks),
        "last_metrics": _metrics(last) if last else None,
    }


def cell_attempts(store: Store, sweep: Sweep, cell: Cell) -> list[CellAttempt]:
    """The attempts at the segments that lead to a cell, in the order of the segments and of the attempts."""
    return [
        CellAttempt(title=f"{segment.kind} to step {segment.stop_step}, attempt {attempt.name}", attempt=attempt)
        for segment in sweep.chain(cell)
        for attempt in store.attempts(segment.id)
    ]


def follow_cell(store: Store, sweep: Sweep, cell: Cell) -> Iterator[str]:
    """What the attempts write from now on, line by line, until the cell has ended or nothing runs the sweep."""
    read = {cell_attempt.attempt: _sizes(cell_attempt.attempt) for cell_attempt in cell_attempts(store, sweep, cell)}
    while True:
        going_on = _is_going_on(store, sweep, cell)  # Before the files: what was written last is read.
        for cell_attempt in cell_attempts(store, sweep, cell):
            if cell_attempt.attempt not in read:
                read[cell_attempt.attempt] = {}
                yield f"== {cell_attempt.title}"
            yield from _new_lines(cell_attempt.attempt, read[cell_attempt.attempt])
        if not going_on:
            return
        time.sleep(POLL_SECONDS)


def _is_going_on(store: Store, sweep: Sweep, cell: Cell) -> bool:
    if store.is_done(str(cell.evaluate_segment)):
        return False
    at_work = any(store.attempts(segment.id).is_locked() for segment in sweep.chain(cell))
    return at_work or bool(running_drivers(store, sweep.name))


def _attempt_lines(attempt: Attempt) -> Iterator[str]:
    failure = _read(attempt.failure)
    if failure is not None:
        yield f"failed: {failure.get('reason', 'no reason was recorded')}"
    for name, value in (_read(attempt.interrupted) or {}).items():
        yield f"interrupted: {name} {value}"
    yield from _lines(attempt.log)
    if failure is not None:
        yield from str(failure.get("traceback", "")).splitlines()
    yield from _lines(attempt.stacks)
    if last := _last_row(attempt.metrics):
        yield _metrics_text(last)


def _lines(path: Path) -> list[str]:
    """Of a file that need not be there."""
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _last_row(path: Path) -> str:
    """The last whole line of a curve; empty without one."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    return next((line for line in reversed(text.split("\n")[:-1]) if line), "")


def _metrics(line: str) -> dict[str, Any] | None:
    """What a line of a curve says; None where it is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _metrics_text(line: str) -> str:
    row = _metrics(line)
    if row is None:
        return line
    return "last metrics: " + ", ".join(f"{name} {_short(value)}" for name, value in row.items())


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; what cannot be read is shown as what it is."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return {"reason": f"{path} cannot be read ({error})"}
    return value if isinstance(value, dict) else {"reason": f"{path} holds no object"}


def _followed(attempt: Attempt) -> tuple[Path, ...]:
    return attempt.log, attempt.metrics, attempt.failure, attempt.interrupted


def _sizes(attempt: Attempt) -> dict[Path, int]:
    """Bytes that a reader has been shown already."""
    return {path: path.stat().st_size for path in _followed(attempt) if path.is_file()}


def _new_lines(attempt: Attempt, read: dict[Path, int]) -> Iterator[str]:
    """Whole lines that were added since; grows `read`."""
    for path in _followed(attempt):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            file.seek(read.get(path, 0))
            added = file.read()
        # JSON is written whole, once.
        whole = added if path.suffix == ".json" else added[: added.rfind(b"\n") + 1]
        read[path] = read.get(path, 0) + len(whole)
        for line in whole.decode(errors="replace").splitlines():
            yield _metrics_text(line).removeprefix("last metrics: ") if path == attempt.metrics else line
