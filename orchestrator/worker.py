"""On the node: run one segment and publish it. An exception becomes a failed attempt, never a lost sweep."""

import contextlib
import platform
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from mor_core.data.spec import DataError
from mor_core.training.checkpoint import CheckpointError
from mor_core.training.loop import Diverged
from orchestrator.identity import Segment
from orchestrator.segment_run import Job, SegmentRun, peak_memory_bytes
from orchestrator.store import LOCK, Store, StoreError, remove_folder, write_json

LOCK_POLL_SECONDS = 0.5

Status = Literal["finished", "diverged", "failed", "blocked"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a segment."""

    segment_id: str
    """Its id."""
    status: Status
    """finished and diverged are published results; failed stays in its attempt; blocked never started."""
    reason: str = ""
    """One sentence where it is not finished."""


def run_or_block(segment: Segment, job: Job, needed: Sequence[Outcome]) -> Outcome:
    """Run a segment unless one that it needs did not finish."""
    for outcome in needed:
        if outcome.status != "finished":
            return blocked(segment, outcome)
    return run_segment(segment, job)


def blocked(segment: Segment, cause: Outcome) -> Outcome:
    """The outcome of a segment that needs one which did not finish."""
    reason = cause.reason if cause.status == "blocked" else f"parent {cause.status}: {cause.reason}"
    return Outcome(segment_id=segment.id, status="blocked", reason=reason)


def run_segment(segment: Segment, job: Job) -> Outcome:
    """Compute a segment and publish it, or report what is published already.

    A kernel-released lock keeps two processes of one host from doing the work twice; correctness rests on publication
    alone. A failure is an outcome, and is recorded in the attempt's failure.json.
    """
    store = Store(root=job.results)
    try:
        store.attempts_folder(segment.id).mkdir(parents=True, exist_ok=True)
        lock = FileLock(store.attempts_folder(segment.id) / LOCK)
        while not store.is_done(segment.id):
            with contextlib.suppress(Timeout), lock.acquire(timeout=LOCK_POLL_SECONDS):
                if not store.is_done(segment.id):
                    failure = _attempt(segment, job, store)
                    if failure:
                        return Outcome(segment_id=segment.id, status="failed", reason=failure)
        return published_outcome(store, segment.id)
    except (OSError, StoreError) as error:
        return Outcome(segment_id=segment.id, status="failed", reason=_sentence(error))


def published_outcome(store: Store, segment_id: str) -> Outcome:
    """The outcome that a published result records. Raises StoreError where the result cannot be read."""
    result = store.result(segment_id)
    if result is None:
        raise StoreError(f"segment {segment_id} has no result in {store.root}")
    return Outcome(segment_id=segment_id, status=result["status"], reason=result.get("reason", ""))


def _attempt(segment: Segment, job: Job, store: Store) -> str | None:
    """One try, by the holder of the segment's lock. The reason of a failure; None where a result is published."""
    store.refuse_obstructed(segment.id)
    store.remove_debris(segment.id)
    folder = store.new_attempt(segment)
    try:
        _compute_and_publish(segment, job, store, folder)
    except Exception as error:  # The one boundary where any failure of a segment becomes a record.
        with contextlib.suppress(OSError):  # A full disk must not hide what it caused.
            write_json(folder / "failure.json", {"reason": _sentence(error), "traceback": traceback.format_exc()})
        return _sentence(error)
    for _, path in store.attempt_checkpoints(segment.id):
        remove_folder(path)
    return None


def _compute_and_publish(segment: Segment, job: Job, store: Store, folder: Path) -> None:
    started = time.monotonic()
    run = SegmentRun(segment=segment, job=job, store=store, attempt=folder)
    checkpoint: Path | None = None
    result: dict[str, Any]
    try:
        checkpoint, result = run.evaluate() if segment.kind == "evaluate" else run.train()
    except Diverged as error:
        result = {"status": "diverged", "reason": str(error), "step": error.step}
    result |= {
        "kind": segment.kind,
        "wall_seconds": time.monotonic() - started,
        "attempts": store.num_attempts(segment.id),
        "numerics": run.numerics_so_far(),
        "peak_memory_bytes": peak_memory_bytes(),
        "hostname": platform.node(),
    }
    store.publish(segment, folder, checkpoint, result)


def _sentence(error: Exception) -> str:
    """A failure in one line, its class first."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{_failure_class(error)}: {text}"


def _failure_class(error: Exception) -> str:
    """A word for what went wrong, by what can be done about it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, CheckpointError | StoreError):
        return "store"
    if isinstance(error, OSError):
        return "operating system"
    return type(error).__name__
