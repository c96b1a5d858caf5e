"""The one door to results: a folder, or a bucket with a local folder that stands for it.

All other code works in the folder. It asks the store's upstream to share what other machines need, and to bring what
they have shared. While a server is away, publication waits and checkpoints are not uploaded; the next upload makes that
good. Training never waits long for it.
"""

import contextlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.planning.identity import Segment
from orchestrator.store.attempts import Attempt
from orchestrator.store.published import RESULT
from orchestrator.store.store import Store, Upstream
from orchestrator.store.upstream.clone import Clone, clone_in, make_clone
from orchestrator.store.upstream.failures import fetch_failures, upload_failures, withdraw_failures
from orchestrator.store.upstream.objects import BucketRefused, BucketUnreachable
from orchestrator.store.upstream.segments import KEEP_PATIENCE_SECONDS, BucketSegments
from orchestrator.store.upstream.stop import SharedStop
from orchestrator.store.upstream.sync import (
    create_once,
    pull,
    pull_revisions,
    push,
    push_revision,
    require_conditional_creation,
)
from orchestrator.store.workers.stop_request import StopFile

FETCH_PATIENCE_SECONDS = 60.0
"""How long a segment that is to be started waits for a server that does not answer."""

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(.*)")
"""Such as s3://bucket/prefix, of which a path keeps one slash."""


def open_store(results: str | Path) -> Store:
    """The results in a folder, which need not be there yet, or at an s3:// address, whose local folder is made. Asks
    the server nothing: `store.upstream.pull()` brings what others have published.

    Raises BucketRefused for an address of another kind.
    """
    address = address_in(results)
    clone = make_clone(address) if address else clone_in(Path(results))
    if clone is None:
        return Store(root=Path(results))
    return Store(root=clone.store.root, upstream=Bucket(clone=clone))


def address_in(results: str | Path) -> str:
    """The address that this is; empty for the path of a folder. Another program's address is one too."""
    match = _ADDRESS.fullmatch(str(results))
    return f"{match[1]}://{match[2]}" if match else ""


@dataclass(frozen=True, kw_only=True)
class Bucket(Upstream):
    """Results on object storage; see `orchestrator.store.store.Upstream` for what each method promises.

    Methods raise BucketRefused and BucketUnreachable where they do not say otherwise.
    """

    clone: Clone
    """The bucket and the local folder."""

    @property
    def address(self) -> str:
        """Its s3:// address."""
        return self.clone.objects.url

    def pull(self) -> None:
        """Bring plans, tables, figures, failures, and every published segment without its checkpoint."""
        pull(self.clone)

    def push(self) -> None:
        """Upload what verbs wrote of sweeps, and failures that the bucket has not been told."""
        push(self.clone)

    def create(self, sweep: str, inside: str, content: bytes) -> bytes:
        """Create a file of a sweep in the bucket, whose bytes count."""
        return create_once(self.clone, f"sweeps/{sweep}/files/{inside}", content)

    def pull_revisions(self, sweep: str) -> None:
        """The bucket's plan revisions of a sweep become the local ones. Raises BucketRefused where the server would let
        two machines overwrite each other's: before anything is written."""
        require_conditional_creation(self.clone)
        pull_revisions(self.clone, sweep)

    def append_revision(self, sweep: str) -> bool:
        """Create the latest local revision in the bucket."""
        return push_revision(self.clone, sweep)

    def shared_stop(self, stop: StopFile, sweep: str) -> StopFile:
        """A stop file that is an object of the bucket too."""
        name = f"sweeps/{sweep}/stop/{stop.path.name}"
        return SharedStop(path=stop.path, objects=self.clone.objects, name=name)

    def fetch(self, segment: Segment) -> None:
        """Bring the segment's result, or what an attempt at it needs. Its failures are taken back: it is tried now."""
        clone = self.clone.waiting(FETCH_PATIENCE_SECONDS)
        BucketSegments(clone=clone).fetch(segment)
        if not clone.store.is_done(segment.id):
            withdraw_failures(clone, segment.id)

    def fetch_outcome(self, segment_id: str) -> None:
        """Bring the published result, or the failures."""
        BucketSegments(clone=self.clone).fetch_results([segment_id])
        if not self.clone.store.is_done(segment_id):
            fetch_failures(self.clone)

    def fetch_checkpoint(self, segment_id: str) -> None:
        """Bring the checkpoint of a published segment, verified."""
        BucketSegments(clone=self.clone).fetch_checkpoint(segment_id)

    def keep(self, segment: Segment, attempt: Attempt, step: int) -> None:
        """Upload a checkpoint. Where the server is away the result says so, and a fault costs another host more
        steps."""
        try:
            BucketSegments(clone=self.clone).keep(segment, attempt, step)
        except BucketUnreachable as error:
            attempt.note(f"{attempt.checkpoint(step).name} was not uploaded: {error}")

    def publish(self, segment: Segment, folder: Path) -> bool:
        """Create the segment in the bucket; where another attempt was first there, bring its result."""
        segments = BucketSegments(clone=self.clone)
        first = segments.publish(segment, folder)
        # After publication: whoever is at work on another machine until then goes on from what attempts have uploaded.
        with contextlib.suppress(BucketUnreachable):  # What stays there does no harm.
            segments.forget_attempts(segment.id)
        return first

    def last_step(self, segment_id: str) -> int:
        """The furthest step of an uploaded checkpoint."""
        return BucketSegments(clone=self.clone).last_uploaded_step(segment_id)

    def record_failure(self, segment_id: str) -> None:
        """Upload why the newest attempt failed. Where the server is away, the end of the next command does."""
        with contextlib.suppress(BucketUnreachable, BucketRefused, OSError):
            upload_failures(self.clone.waiting(KEEP_PATIENCE_SECONDS), [segment_id])

    def withdraw(self, segment_ids: Sequence[str]) -> None:
        """Take results and failures back; the results stay in retried/."""
        objects = self.clone.objects
        for segment_id in segment_ids:
            withdraw_failures(self.clone, segment_id)
            result = f"segments/{segment_id}/{RESULT}"
            content = objects.read(result)
            if content is not None:
                objects.create(f"retried/{segment_id}-{secrets.token_hex(4)}.json", content)
                objects.remove([result])
