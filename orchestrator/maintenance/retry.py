"""`mor-sweep retry`: let cells that failed or diverged be tried again. A published divergence is moved aside, never
deleted.

retried/<segment_id>-<N>/    a published segment as it was, moved here by the Nth retry
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mor_core.errors import Refused
from mor_core.files import fsync
from orchestrator.maintenance.idle import check_idle
from orchestrator.planning.cells import Cell
from orchestrator.records.revisions import Sweep
from orchestrator.records.status.states import segment_state
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import PlannedSegment

FOLDER = "retried"


class RetryRefused(Refused):
    """Nothing is changed as things stand; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """What a retry clears."""

    moved: tuple[PlannedSegment, ...]
    """Published as diverged, or in a state that cannot be read: moved aside."""
    failed: tuple[PlannedSegment, ...]
    """Segments whose latest attempt failed: its failure is cleared."""
    cells: tuple[Cell, ...]
    """The cells that are tried again by the sweep's command."""


def plan_retry(store: Store, sweep: Sweep, cells: Sequence[Cell]) -> Retry:
    """What stands in the way of these cells; changes nothing."""
    moved: dict[str, PlannedSegment] = {}
    failed: dict[str, PlannedSegment] = {}
    stopped = []
    for cell in cells:
        if (
            store.is_done(str(cell.evaluate_segment))
            and _status(store, sweep.segments[str(cell.evaluate_segment)]) == "finished"
        ):
            continue
        for segment in sweep.chain(cell):
            status = _status(store, segment)
            if status in ("diverged", "failed"):
                blocked_by = moved if store.segment_folder(segment.id).exists() else failed
                blocked_by[segment.id] = segment
                stopped.append(cell)
    return Retry(moved=tuple(moved.values()), failed=tuple(failed.values()), cells=tuple(dict.fromkeys(stopped)))


def apply_retry(store: Store, retry: Retry) -> list[Path]:
    """Do it; returns where published results were moved. Raises RetryRefused while a sweep runs."""
    check_idle(store, RetryRefused)
    moved = [_move_aside(store, segment.id) for segment in retry.moved]
    for segment in (*retry.failed, *retry.moved):
        for attempt in store.attempts(segment.id):
            if attempt.has_failed:
                attempt.clear_failure()
    return moved


def _status(store: Store, segment: PlannedSegment) -> str:
    return segment_state(store, segment.id, segment.kind, segment.stop_step).status


def _move_aside(store: Store, segment_id: str) -> Path:
    """One rename: the segment is published or it is not."""
    folder = store.root / FOLDER
    folder.mkdir(exist_ok=True)
    number = 1 + sum(1 for _ in folder.glob(f"{segment_id}-*"))
    while (target := folder / f"{segment_id}-{number}").exists():
        number += 1
    store.segment_folder(segment_id).rename(target)
    fsync(folder)
    return target
