"""A segment that several workers train together: what each rank does, and when a lost group is tried again.

Rank 0 makes the attempt, as a single worker would: it restores, writes metrics and checkpoints, and publishes. The
others get its state, take the same steps on their rows of each batch, and write nothing. Who starts the ranks and gives
them a process group is not said here.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mor_core.training.distributed import PeerLost, current_world, leave_world
from mor_core.training.loop import Diverged
from orchestrator.failures import RULES, Failure, FailureClass
from orchestrator.identity import Segment
from orchestrator.segment_run import Job, SegmentRun
from orchestrator.stopping import why_stop
from orchestrator.store import Store, StoreError, replace_text
from orchestrator.worker import Outcome, failed, half_micro_batch, published_outcome, run_segment

OUTCOME = "outcome.json"
"""In a group's scratch folder: what rank 0 says became of the segment."""


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
    store = Store(root=job.results)
    lost, left, out_of_memory = None, tries, 0
    while left:
        left -= 1
        if cause := why_stop(job.stop, running=False):
            return Outcome(segment_id=segment.id, status="interrupted", reason=cause)
        reached = store.last_attempt_step(segment.id)
        with _scratch(store) as scratch:
            lost = train(Rank(segment=segment, job=job, scratch=scratch))
            outcome = _outcome(scratch, segment)
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
        if store.last_attempt_step(segment.id) > reached:
            left = tries
    return failed(segment, Failure(kind=FailureClass.infrastructure, text=lost or "its workers ended without a result"))


def run_rank(rank: Rank) -> None:
    """This process's part of the work, in the process group that it is in. Rank 0 leaves the outcome in scratch."""
    try:
        if current_world().rank == 0:
            outcome = run_segment(rank.segment, rank.job)
            leave_world()
            replace_text(rank.scratch / OUTCOME, json.dumps(asdict(outcome)))
        else:
            _follow(rank)
    except PeerLost:
        pass  # Without an outcome, whoever waits for the group replaces it.
    finally:
        leave_world()


def _follow(rank: Rank) -> None:
    """The part of a rank that writes nothing of its own."""
    with tempfile.TemporaryDirectory(dir=rank.scratch) as folder, contextlib.suppress(Diverged):
        run = SegmentRun(segment=rank.segment, job=rank.job, store=Store(root=rank.job.results), attempt=Path(folder))
        run.follow()


def _published(store: Store, segment: Segment) -> Outcome:
    try:
        return published_outcome(store, segment.id)
    except StoreError as error:
        return failed(segment, Failure(kind=FailureClass.store, text=str(error)))


def _outcome(scratch: Path, segment: Segment) -> Outcome | None:
    """What rank 0 says became of the segment; None where it was lost or lost another."""
    try:
        found = json.loads((scratch / OUTCOME).read_text())
    except (OSError, ValueError):
        return None
    failure = FailureClass(found["failure"]) if found["failure"] else None
    return Outcome(segment_id=segment.id, status=found["status"], reason=found["reason"], failure=failure)


@contextlib.contextmanager
def _scratch(store: Store) -> Iterator[Path]:
    """A folder in the results folder, which all machines of a cluster share."""
    parent = store.root / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            parent.rmdir()
