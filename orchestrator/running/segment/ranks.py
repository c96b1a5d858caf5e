"""A segment that several workers train together: what each rank does, and when a lost group is tried again.

Rank 0 makes the attempt, as a single worker would: it restores, writes metrics and checkpoints, and publishes. The
others get its state, take the same steps on their rows of each batch, and write nothing. Another module
starts the ranks and gives them a process group.
"""

import contextlib
import json
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mor_core.files import replace_text, write_json
from mor_core.training.distributed import PeerLost, current_world, leave_world
from mor_core.training.loop import Diverged
from orchestrator.planning.identity import Segment
from orchestrator.running.outcomes import RULES, Failure, FailureClass, Outcome, failed, published_outcome
from orchestrator.running.segment.job import Job, SegmentRun
from orchestrator.running.segment.train import run_as_peer
from orchestrator.running.segment.worker import failure_of, half_micro_batch, run_segment
from orchestrator.running.stopping import why_stop
from orchestrator.store.attempts import Attempt, scratch_folder
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from orchestrator.store.upstream.upstream import open_store

OUTCOME = "outcome.json"
"""In a group's scratch folder: what rank 0 says became of the segment."""

RANK_FAILURE = "rank_failure.json"
"""In a group's scratch folder: why another rank failed, as an attempt says it. Rank 0 knows only that it is gone."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """What every rank of a group is told."""

    segment: Segment
    """The work."""
    job: Job
    """How it is executed."""
    scratch: Path
    """A folder that all ranks can write to; gone when the group is."""


def with_ranks(segment: Segment, job: Job, train: Callable[[Rank], str | None], *, workers: int, tries: int) -> Outcome:
    """Have a group of `workers` ranks compute a segment. A group that lost a rank is replaced, and goes on from the
    last checkpoint, until `tries` in a row got no further. A failure of the work itself ends it, as it would with one
    worker: only without memory it is tried again, with half the micro-batch.

    `train` runs `run_rank` on every rank and returns, when all have ended, a sentence where the group was lost.
    """
    store = open_store(job.results)
    lost, left, out_of_memory = None, tries, 0
    while left:
        left -= 1
        if cause := why_stop(job.stop, running=False):
            return Outcome(segment_id=segment.id, status="interrupted", reason=cause)
        reached = store.attempts(segment.id).last_step()
        with _scratch(store, job) as scratch:
            lost = train(Rank(segment=segment, job=job, scratch=scratch))
            outcome = _outcome(scratch, store, segment)
        if store.is_done(segment.id):
            return _published(store, segment)
        if outcome and outcome.failure is FailureClass.oom:
            out_of_memory += 1
            half = half_micro_batch(segment, job, workers)
            if out_of_memory <= RULES[FailureClass.oom].retries and half is not None:
                job, left = replace(job, micro_batch=half), tries
                continue
        if outcome:
            return outcome
        if store.attempts(segment.id).last_step() > reached:
            left = tries
    return failed(segment, Failure(kind=FailureClass.infrastructure, text=lost or "its workers ended without a result"))


def run_rank(rank: Rank) -> bool:
    """This process's part of the work, in the process group that it is in. Rank 0 leaves the outcome in scratch,
    another rank its failure.

    False where this rank left before the end: the others are to be ended, for they may wait for it for ever. A group
    that is left is not always closed: torch keeps it once an optimiser has been made.
    """
    try:
        if current_world().rank:
            return _follow(rank)
        outcome = run_segment(rank.segment, rank.job)
        leave_world()
        replace_text(rank.scratch / OUTCOME, json.dumps(asdict(outcome)))
        return outcome.status in ("finished", "diverged")
    except PeerLost:
        return True  # Without an outcome, whoever waits for the group replaces it.
    finally:
        leave_world()


def _follow(rank: Rank) -> bool:
    """The part of a rank that writes nothing of its own; False where it failed. Raises PeerLost."""
    with tempfile.TemporaryDirectory(dir=rank.scratch) as folder, contextlib.suppress(Diverged):
        run = SegmentRun(
            segment=rank.segment,
            job=rank.job,
            store=open_store(rank.job.results),
            attempt=Attempt(folder=Path(folder)),
        )
        try:
            run_as_peer(run)
        except (PeerLost, Diverged):
            raise
        except Exception as error:  # This rank's one boundary, as an attempt is rank 0's.
            details = {"traceback": traceback.format_exc(), "rank": current_world().rank}
            write_json(rank.scratch / RANK_FAILURE, failure_of(error, rank.scratch).to_json(**details))
            return False
    return True


def _published(store: Store, segment: Segment) -> Outcome:
    try:
        return published_outcome(store, segment.id)
    except StoreError as error:
        return failed(segment, Failure(kind=FailureClass.store, text=str(error)))


def _outcome(scratch: Path, store: Store, segment: Segment) -> Outcome | None:
    """What rank 0 says became of the segment, or the failure of another rank; None where one was just lost."""
    if report := _read(scratch / OUTCOME):
        failure = FailureClass(report["failure"]) if report["failure"] else None
        return Outcome(segment_id=segment.id, status=report["status"], reason=report["reason"], failure=failure)
    if report := _read(scratch / RANK_FAILURE):
        if attempt := store.attempts(segment.id).newest():
            attempt.record_failure(report)  # Rank 0 left without a word in it.
        return Outcome(
            segment_id=segment.id, status="failed", reason=report["reason"], failure=FailureClass(report["class"])
        )
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _scratch(store: Store, job: Job) -> Iterator[Path]:
    """A folder in the results folder, which all machines of a cluster share."""
    parent = store.make_folder(scratch_folder(store.root, job.run))
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for empty in (parent, parent.parent):
            with contextlib.suppress(OSError):
                empty.rmdir()
