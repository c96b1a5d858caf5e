"""Where a segment's work meets the bucket: nothing happens here for results that are a folder.

A server that is away delays publication and costs uploads of checkpoints, which the next one makes good; training
never waits long for it.
"""

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.planning.identity import Segment
from orchestrator.store.attempts import Attempt
from orchestrator.store.published import RESULT, StoreError
from orchestrator.store.stop_request import StopFile, new_stop_file
from orchestrator.store.store import Store
from orchestrator.store.upstream.address import open_remote, remote_of
from orchestrator.store.upstream.failures import fetch_failures, upload_failures, withdraw_failures
from orchestrator.store.upstream.objects import RemoteRefused, RemoteUnreachable
from orchestrator.store.upstream.segments import KEEP_PATIENCE_SECONDS, RemoteSegments
from orchestrator.store.upstream.stop import SharedStop
from orchestrator.store.upstream.sync import push

FETCH_PATIENCE_SECONDS = 60.0
"""How long a segment that is to be started waits for a server that does not answer."""


def local_store(results: Path, remote: str) -> Store:
    """The folder that this host works in: of an s3:// address its own; without one, the results folder itself."""
    return open_remote(remote).store if remote else Store(root=results)


def share_sweep_files(store: Store) -> None:
    """What verbs wrote of sweeps goes to the bucket, where there is one."""
    if remote := remote_of(store):
        push(remote)


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
            withdraw_failures(segments.remote, segment.id)


def share_failure(store: Store, segment_id: str) -> None:
    """Tell the bucket that the newest attempt failed. Where the server is away, the end of the next command does."""
    if segments := segments_of(store, patience=KEEP_PATIENCE_SECONDS):
        with contextlib.suppress(RemoteUnreachable, RemoteRefused, OSError):
            upload_failures(segments.remote, [segment_id])


def keep_elsewhere(store: Store, segment: Segment, attempt: Attempt, step: int) -> None:
    """Upload a checkpoint. Where the server is away the result says so, and a fault costs another host more steps."""
    if segments := segments_of(store):
        try:
            segments.keep(segment, attempt, step)
        except RemoteUnreachable as error:
            attempt.note(f"{attempt.checkpoint(step).name} was not uploaded: {error}")


def publish_elsewhere(store: Store, segment: Segment, whole: Path) -> bool:
    """Publish in the bucket first. False where another attempt was first there; its result is then here."""
    segments = segments_of(store)
    if segments is None:
        return True
    first = segments.publish(segment, whole)
    # After publication: whoever is at work on another machine until then goes on from what attempts have uploaded.
    with contextlib.suppress(RemoteUnreachable):  # What stays there does no harm.
        segments.forget_attempts(segment.id)
    return first


def fetch_outcome(store: Store, segment_id: str) -> None:
    """Bring what another host has published of a segment, or why it failed there."""
    if segments := segments_of(store):
        segments.fetch_results([segment_id])
        if not store.is_done(segment_id):
            fetch_failures(segments.remote)


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
            withdraw_failures(segments.remote, name)
            told = segments.remote.objects.read(f"segments/{name}/{RESULT}")
            if told is not None:
                segments.remote.objects.create(f"retried/{name}-{secrets.token_hex(4)}.json", told)
                segments.remote.objects.remove([f"segments/{name}/{RESULT}"])


def last_step(store: Store, segment_id: str) -> int:
    """The furthest step of which an attempt, on whichever host, has kept a checkpoint; 0 without one."""
    segments = segments_of(store)
    return segments.last_step(segment_id) if segments else store.attempts(segment_id).last_step()


def segments_of(store: Store, patience: float | None = None) -> RemoteSegments | None:
    """The bucket's segments; None for results that are a folder."""
    remote = remote_of(store)
    if remote is None:
        return None
    if patience is not None:
        remote = replace(remote, objects=replace(remote.objects, patience=patience))
    return RemoteSegments(remote=remote)
