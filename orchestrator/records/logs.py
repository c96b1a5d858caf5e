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
from orchestrator.store.attempts import LOG
from orchestrator.store.drivers import running_drivers
from orchestrator.store.store import Store

POLL_SECONDS = 0.5
STACKS = "stacks.txt"
"""Of an attempt that took no step for too long."""


@dataclass(frozen=True, kw_only=True)
class AttemptFiles:
    """One attempt at a segment of a cell."""

    title: str
    """Such as "stable to step 120, attempt 001-host-4711"."""
    folder: Path
    """Where its files are."""


def cell_lines(store: Store, sweep: Sweep, cell: Cell) -> Iterator[str]:
    """Everything there is to read about a cell, the cause of a failure first."""
    row = _row(store, sweep, cell)
    state = row["status"] + (f": {row['reason']}" if row["reason"] else "")
    yield f"{cell_name(cell)} ({row['cell_id'][:12]}) {state}"
    attempts = cell_attempts(store, sweep, cell)
    if not attempts:
        yield "no attempt yet"
    for attempt in attempts:
        yield ""
        yield f"== {attempt.title}"
        yield from _attempt_lines(attempt.folder)


def cell_record(store: Store, sweep: Sweep, cell: Cell) -> dict[str, Any]:
    """The same as plain JSON values: the cell's row in short, and each attempt with its files."""
    row = _row(store, sweep, cell)
    return {
        "sweep": sweep.name,
        "cell": cell_name(cell),
        "cell_id": row["cell_id"],
        "status": row["status"],
        "reason": row["reason"],
        "attempts": [_attempt_record(attempt) for attempt in cell_attempts(store, sweep, cell)],
    }


def _row(store: Store, sweep: Sweep, cell: Cell) -> dict[str, Any]:
    return next(row for row in table(store, sweep).iter_rows(named=True) if row["cell_id"] == str(cell.cell_id))


def _attempt_record(attempt: AttemptFiles) -> dict[str, Any]:
    stacks, last = attempt.folder / STACKS, _last_row(attempt.folder / "metrics.jsonl")
    return {
        "title": attempt.title,
        "folder": str(attempt.folder),
        "failure": _read(attempt.folder / "failure.json"),
        "interrupted": _read(attempt.folder / "interrupted.json"),
        "log": _lines(attempt.folder / LOG),
        "stacks": _lines(stacks),
        "last_metrics": _metrics(last) if last else None,
    }


def cell_attempts(store: Store, sweep: Sweep, cell: Cell) -> list[AttemptFiles]:
    """The attempts at the segments that lead to a cell, in the order of the segments and of the attempts."""
    return [
        AttemptFiles(title=f"{segment.kind} to step {segment.stop_step}, attempt {folder.name}", folder=folder)
        for segment in sweep.chain(cell)
        for folder in store.attempts(segment.id)
    ]


def follow_cell(store: Store, sweep: Sweep, cell: Cell) -> Iterator[str]:
    """What the attempts write from now on, line by line, until the cell has ended or nothing runs the sweep."""
    read = {attempt.folder: _sizes(attempt.folder) for attempt in cell_attempts(store, sweep, cell)}
    while True:
        going_on = _is_going_on(store, sweep, cell)  # Before the files: what was written last is read.
        for attempt in cell_attempts(store, sweep, cell):
            if attempt.folder not in read:
                read[attempt.folder] = {}
                yield f"== {attempt.title}"
            yield from _new_lines(attempt.folder, read[attempt.folder])
        if not going_on:
            return
        time.sleep(POLL_SECONDS)


def _is_going_on(store: Store, sweep: Sweep, cell: Cell) -> bool:
    if store.is_done(str(cell.evaluate_segment)):
        return False
    at_work = any(store.attempts(segment.id).is_locked() for segment in sweep.chain(cell))
    return at_work or bool(running_drivers(store, sweep.name))


def _attempt_lines(folder: Path) -> Iterator[str]:
    failure = _read(folder / "failure.json")
    if failure is not None:
        yield f"failed: {failure.get('reason', 'no reason was recorded')}"
    for name, value in (_read(folder / "interrupted.json") or {}).items():
        yield f"interrupted: {name} {value}"
    yield from _lines(folder / LOG)
    if failure is not None:
        yield from str(failure.get("traceback", "")).splitlines()
    yield from _lines(folder / STACKS)
    if last := _last_row(folder / "metrics.jsonl"):
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


FOLLOWED = (LOG, "metrics.jsonl", "failure.json", "interrupted.json")


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes that a reader has been shown already."""
    return {name: (folder / name).stat().st_size for name in FOLLOWED if (folder / name).is_file()}


def _new_lines(folder: Path, read: dict[str, int]) -> Iterator[str]:
    """Whole lines that were added since; grows `read`."""
    for name in FOLLOWED:
        path = folder / name
        if not path.is_file():
            continue
        with path.open("rb") as file:
            file.seek(read.get(name, 0))
            added = file.read()
        # JSON is written whole, once.
        whole = added if name.endswith(".json") else added[: added.rfind(b"\n") + 1]
        read[name] = read.get(name, 0) + len(whole)
        for line in whole.decode(errors="replace").splitlines():
            yield _metrics_text(line).removeprefix("last metrics: ") if name == "metrics.jsonl" else line
