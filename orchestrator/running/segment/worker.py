"""On the node: run one segment and publish it. An exception becomes a failed attempt, never a lost sweep."""

import contextlib
import errno
import gc
import platform
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from mor_core.config.own_model import OwnModel
from mor_core.data.spec import DataError
from mor_core.errors import UserError, first_line
from mor_core.files import remove_folder
from mor_core.model.device import give_back_freed_memory, peak_memory_bytes
from mor_core.training.distributed import PeerLost, current_world, leave_world
from mor_core.training.loop import Diverged
from mor_core.training.manifest import CheckpointError
from orchestrator.planning.canonical import OtherVersion
from orchestrator.planning.identity import Segment
from orchestrator.running.outcomes import RULES, Failure, FailureClass, Outcome, blocked, failed, published_outcome
from orchestrator.running.segment.evaluate import evaluate
from orchestrator.running.segment.job import Job, SegmentRun
from orchestrator.running.segment.start_state import first_step
from orchestrator.running.segment.train import train
from orchestrator.running.stalls.ending import record_stalled, stalled_failure
from orchestrator.running.stalls.watchdog import Superseded, Watchdog
from orchestrator.running.stopping import Interrupted, why_stop
from orchestrator.store.attempts import LOCK, Attempt, logged
from orchestrator.store.folder import HeldFolder, ResultsGone, holding
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from orchestrator.store.upstream.upstream import open_store

LOCK_POLL_SECONDS = 0.5


def run_or_block(segment: Segment, job: Job, needed: Sequence[Outcome]) -> Outcome:
    """Run a segment unless one that it needs did not finish."""
    for outcome in needed:
        if outcome.status != "finished":
            return blocked(segment, outcome)
    return run_segment(segment, job)


def run_segment(segment: Segment, job: Job) -> Outcome:
    """Compute a segment and publish it, or report what is published already.

    A kernel-released lock keeps two processes of one host from doing the work twice; correctness rests on publication
    alone. A failure is an outcome, and is recorded in the attempt; so is a request to stop. Where the results folder is
    gone the segment is interrupted, and nothing is recorded.
    """
    store = open_store(job.results)
    try:
        with holding(store.root) as folder:
            return _run_once_locked(segment, job, store, folder)
    except ResultsGone as error:
        return Outcome(segment_id=segment.id, status="interrupted", reason=str(error))
    except (OSError, StoreError) as error:
        return failed(segment, failure_of(error, store.attempts_folder(segment.id)))


def _run_once_locked(segment: Segment, job: Job, store: Store, folder: HeldFolder) -> Outcome:
    """Compute a segment as soon as its lock is free, unless another process publishes it before."""
    lock = FileLock(store.make_folder(store.attempts_folder(segment.id)) / LOCK)
    while not store.is_done(segment.id):
        if cause := why_stop(job.stop, running=False):
            return Outcome(segment_id=segment.id, status="interrupted", reason=cause)
        folder.check()  # FileLock would make the folders above its file again.
        with contextlib.suppress(Timeout), lock.acquire(timeout=LOCK_POLL_SECONDS):
            store.upstream.fetch(segment)
            if not store.is_done(segment.id) and (ended := _tries(segment, job, store, folder)):
                store.upstream.record_failure(segment.id)
                return ended
    return published_outcome(store, segment.id)


def failure_of(error: Exception, folder: Path) -> Failure:
    """An exception as a failure of one class, in one line. The folder is named where the system did not name a file."""
    kind = _failure_class(error)
    text = first_line(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or folder}: {error.strerror}; the same command goes on once that is mended"
    elif kind is FailureClass.error:
        text = f"{type(error).__name__}: {text}"
    if kind is FailureClass.oom:
        text += f" (peak {peak_memory_bytes() / 2**20:,.0f} MiB)"
    return Failure(kind=kind, text=text)


def _tries(segment: Segment, job: Job, store: Store, folder: HeldFolder) -> Outcome | None:
    """Attempts, by the holder of the segment's lock, until the rules say no more; None where a result is published.

    A rank makes one attempt only: whoever waits for its group starts the next.
    """
    is_rank = current_world().size > 1
    failures = Counter({FailureClass.stalled: record_stalled(segment, job.run, store)})
    if failures[FailureClass.stalled] > RULES[FailureClass.stalled].retries:
        return failed(segment, stalled_failure(segment, store))
    while True:
        ended = _attempt(segment, job, store, folder)
        if not isinstance(ended, Failure):
            return ended
        failures[ended.kind] += 1
        half = half_micro_batch(segment, job)
        if (
            is_rank
            or failures[ended.kind] > RULES[ended.kind].retries
            or (ended.kind is FailureClass.oom and half is None)
        ):
            return failed(segment, ended)
        if ended.kind is FailureClass.oom:
            job = replace(job, micro_batch=half)
            gc.collect()
            give_back_freed_memory()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _attempt(segment: Segment, job: Job, store: Store, folder: HeldFolder) -> Failure | Outcome | None:
    """One try. Its failure, or the outcome of one that was told to stop; None where a result is published.

    Raises ResultsGone where it failed because the results folder is gone.
    """
    store.refuse_obstructed(segment.id)
    store.attempts(segment.id).remove_debris()
    attempt = store.new_attempt(segment)
    try:
        with (
            logged(attempt, f"{segment.kind} segment {segment.id} to step {segment.stop_step}"),
            Watchdog(attempt=attempt, run=job.run, seconds=job.stall_seconds) as watchdog,
        ):
            _compute_and_publish(segment, job, store, attempt, watchdog)
    except Interrupted as error:
        attempt.record_interrupted(error.step, error.cause)
        return Outcome(segment_id=segment.id, status="interrupted", reason=str(error))
    except Superseded as error:  # Its failure is on file, and another attempt at work or done.
        return failed(segment, Failure(kind=FailureClass.stalled, text=str(error)))
    except PeerLost:
        raise  # A new group goes on with the work: nothing has failed.
    except Exception as error:  # The one boundary where any failure of a segment becomes a record.
        leave_world()
        folder.check()
        failure = failure_of(error, attempt.folder)
        details = {"traceback": traceback.format_exc(), "peak_memory_bytes": peak_memory_bytes()}
        with contextlib.suppress(OSError):  # A full disk must not hide what it caused.
            attempt.record_failure(failure.to_json(**details))
        return failure
    # Once a result is published: until then they are what the next attempt goes on from.
    for _, path in store.attempts(segment.id).checkpoints():
        remove_folder(path)
    return None


def _compute_and_publish(segment: Segment, job: Job, store: Store, attempt: Attempt, watchdog: Watchdog) -> None:
    started = time.monotonic()
    run = SegmentRun(
        segment=segment,
        job=job,
        store=store,
        attempt=attempt,
        on_step=watchdog.step,
        on_checkpoint=lambda step: store.upstream.keep(segment, attempt, step),
    )
    checkpoint: Path | None = None
    measured: dict[str, Any]
    try:
        if segment.kind == "evaluate":
            measured = evaluate(run)
        else:
            checkpoint, measured = train(run)
    except Diverged as error:
        kept = [step for step, _ in store.attempts(segment.id).checkpoints()]
        last_good_step = max(kept, default=first_step(run))
        measured = {"status": "diverged", "reason": str(error), "step": error.step, "last_good_step": last_good_step}
    measured |= {
        "wall_seconds": time.monotonic() - started,
        "attempts": store.attempts(segment.id).count(),
        "numerics": attempt.read_numerics(),
        "notes": attempt.read_notes(),
        "peak_memory_bytes": peak_memory_bytes(),
        "hostname": platform.node(),
    }
    watchdog.refuse_superseded()  # It may have been frozen since its last step.
    store.publish(segment, attempt, checkpoint, measured)


def half_micro_batch(segment: Segment, job: Job, workers: int = 1) -> int | None:
    """The largest micro-batch of at most half the sequences that divides a worker's share of the global batch; None
    below one, and where an own model's steps take the whole batch."""
    model = segment.trunk.model
    if isinstance(model, OwnModel) and model.training != "adamw" and segment.kind != "evaluate":
        return None
    share, half = segment.trunk.train.batch_size // workers, job.sequences(segment, workers) // 2
    return next((size for size in range(half, 0, -1) if share % size == 0), None)


def _failure_class(error: Exception) -> FailureClass:
    """What went wrong, by what can be done about it."""
    if _is_out_of_memory(error):
        return FailureClass.oom
    if isinstance(error, DataError):
        return FailureClass.data
    if isinstance(error, CheckpointError | StoreError | OtherVersion | OSError):
        return FailureClass.store
    if isinstance(error, UserError):
        return FailureClass.user
    return FailureClass.error


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # On a CPU torch raises a bare RuntimeError.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
