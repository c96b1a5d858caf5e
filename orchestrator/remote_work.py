"""Where a segment's work meets the bucket: nothing happens here for results that are a folder.

A server that is away delays publication and costs uploads of checkpoints, which the next one makes good; training
never waits long for it.
"""

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mor_core.data.snapshot import DataSnapshot
from orchestrator.identity import Segment
from orchestrator.object_store import RemoteRefused, RemoteUnreachable
from orchestrator.plan import Plan
from orchestrator.remote_failures import RemoteFailures
from orchestrator.remote_results import open_remote, remote_of
from orchestrator.remote_segment import KEEP_PATIENCE_SECONDS, RemoteSegments
from orchestrator.remote_stop import SharedStop
from orchestrator.revisions import Sweep, record_revision
from orchestrator.stopping import StopFile, new_stop_file
from orchestrator.store import Store, StoreError

if TYPE_CHECKING:
    from orchestrator.segment_job import Job

NOTES = "notes.txt"
FETCH_PATIENCE_SECONDS = 60.0
"""How long a segment that is to be started waits for a server that does not answer."""


def local_store(job: "Job") -> Store:
    """The folder that this host works in."""
    return open_remote(job.remote).store if job.remote else Store(root=job.results)


def share_revision(store: Store, plan: Plan, data: DataSnapshot) -> Sweep:
    """Record a plan as its sweep's latest revision, in the bucket too where there is one.

    Raises RemoteRefused where the server cannot be used, or would let two machines overwrite each other's results.
    """
    remote = remote_of(store)
    if remote is None:
        return record_revision(store, plan, data)
    remote.require_conditional_creation()
    while True:  # Until no other machine has appended a revision of the same number in between.
        remote.pull_revisions(plan.name)
        sweep = record_revision(store, plan, data)
        if remote.push_revision(plan.name):
            return sweep


def stop_of(store: Store, sweep: str, *, on_this_host: bool) -> StopFile:
    """By what a new run of a sweep tells its workers to stop."""
    remote, file = remote_of(store), new_stop_file(store.sweep_folder(sweep))
    if remote is None or on_this_host:
        return file
    return SharedStop(path=file.path, objects=remote.objects, name=f"sweeps/{sweep}/stop/{file.path.name}")


def fetch_segment(store: Store, segment: Segment) -> None:
    """Bring the segment's result from the bucket, or what an attempt at it needs, which is now being made.

    Raises StoreError."""
    if segments := segments_of(store, patience=FETCH_PATIENCE_SECONDS):
        segments.fetch(segment)
        if not store.is_done(segment.id):
            RemoteFailures(remote=segments.remote).withdraw(segment.id)


def share_failure(store: Store, segment_id: str) -> None:
    """Tell the bucket that the newest attempt failed. Where the server is away, the end of the next command does."""
    if segments := segments_of(store, patience=KEEP_PATIENCE_SECONDS):
        with contextlib.suppress(RemoteUnreachable, RemoteRefused, OSError):
            RemoteFailures(remote=segments.remote).upload([segment_id])


def keep_elsewhere(store: Store, segment: Segment, attempt: Path, step: int) -> None:
    """Upload a checkpoint. Where the server is away the result says so, and a fault costs another host more steps."""
    if segments := segments_of(store):
        try:
            segments.keep(segment, attempt, step)
        except RemoteUnreachable as error:
            with (attempt / NOTES).open("a") as file:
                file.write(f"checkpoint-{step} was not uploaded: {error}\n")


def publish_elsewhere(store: Store, segment: Segment, whole: Path) -> bool:
    """Publish in the bucket first. False where another attempt was first there; its result is then here."""
    segments = segments_of(store)
    if segments is None:
        return True
    first = segments.publish(segment, whole)
    with contextlib.suppress(RemoteUnreachable):  # What stays there does no harm.
        segments.forget_attempts(segment.id)
    return first


def fetch_outcome(store: Store, segment_id: str) -> None:
    """Bring what another host has published of a segment, or why it failed there."""
    if segments := segments_of(store):
        segments.fetch_results([segment_id])
        if not store.is_done(segment_id):
            RemoteFailures(remote=segments.remote).fetch()


def fetch_weights(store: Store, segment_id: str) -> None:
    """Bring the checkpoint of a published segment. Raises StoreError where it cannot be read."""
    if segments := segments_of(store):
        segments.fetch_checkpoint(segment_id)


def fetch_all(store: Store) -> list[tuple[str, str]]:
    """Bring every published checkpoint; (segment id, why not) of those that cannot be read."""
    segments, wrong = segments_of(store), []
    for folder in sorted((store.root / "segments").glob("*")) if segments else ():
        try:
            fetch_weights(store, folder.name)
        except RemoteUnreachable:
            raise
        except StoreError as error:
            wrong.append((folder.name, str(error)))
    return wrong


def withdraw(store: Store, segment_ids: Sequence[str]) -> None:
    """Take published results and failures back in the bucket, so that the segments are computed again; the results
    stay in retried/."""
    if segments := segments_of(store):
        for name in segment_ids:
            RemoteFailures(remote=segments.remote).withdraw(name)
            told = segments.objects.read(f"segments/{name}/result.json")
            if told is not None:
                segments.objects.create(f"retried/{name}-{secrets.token_hex(4)}.json", told)
                segments.objects.remove([f"segments/{name}/result.json"])


def last_step(store: Store, segment_id: str) -> int:
    """The furthest step of which an attempt, on whichever host, has kept a checkpoint; 0 without one."""
    segments = segments_of(store)
    return segments.last_step(segment_id) if segments else store.last_attempt_step(segment_id)


def segments_of(store: Store, patience: float | None = None) -> RemoteSegments | None:
    """The bucket's segments; None for results that are a folder."""
    remote = remote_of(store)
    if remote is None:
        return None
    if patience is not None:
        remote = replace(remote, objects=replace(remote.objects, patience=patience))
    return RemoteSegments(remote=remote)
