"""Why segments failed, shared with machines that did not compute them; see `sync` for what lies where.

    attempts/<id>/<attempt>/failure.json   created once, by the machine whose newest attempt at the segment failed

It is deleted when the segment is tried again, published, or cleared by `retry`, on whichever machine. The local copy
is then cleared too, so that every machine sees the segment as pending again.

Whatever asks the bucket raises BucketRefused and BucketUnreachable.
"""

import json
import secrets
from collections.abc import Iterable

from mor_core.files import is_plain_name, replacing
from orchestrator.store.attempts import FAILURE, Attempt
from orchestrator.store.store import Store
from orchestrator.store.upstream.clone import Clone


def upload_failures(clone: Clone, segment_ids: Iterable[str]) -> None:
    """Create the failures of newest attempts that the bucket does not have yet."""
    for segment_id in segment_ids:
        attempt = clone.store.attempts(segment_id).newest()
        if attempt is None or clone.store.is_done(segment_id):
            continue
        if attempt.has_failed and not attempt.shared_failure.exists():
            content = attempt.failure.read_bytes()
            clone.objects.create(f"attempts/{segment_id}/{bucket_name(attempt)}/{FAILURE}", content)
            attempt.shared_failure.touch()


def fetch_failures(clone: Clone) -> None:
    """Bring the failures that are not here, and take back those that are no longer in the bucket."""
    in_bucket = {name for name in clone.objects.etags("attempts") if _is_failure(name)}
    in_folder: set[str] = set()
    for segment_id in segments_begun(clone.store):
        for attempt in clone.store.attempts(segment_id):
            in_folder.add(f"attempts/{segment_id}/{_known_name(attempt)}/{FAILURE}")
        newest = clone.store.attempts(segment_id).newest()
        if newest is not None and newest.shared_failure.exists() and newest.has_failed:
            name = f"attempts/{segment_id}/{_known_name(newest)}/{FAILURE}"
            if name not in in_bucket:
                newest.clear_failure()
    for name, content in clone.objects.read_all(sorted(in_bucket - in_folder)).items():
        if _says_why(content):
            _, segment_id, attempt_name, _ = name.split("/")
            attempt = clone.store.attempts(segment_id).named(attempt_name)
            attempt.folder.mkdir(parents=True, exist_ok=True)
            attempt.shared_name.write_text(attempt_name)
            attempt.shared_failure.touch()
            with replacing(attempt.failure) as temporary:
                temporary.write_bytes(content)


def withdraw_failures(clone: Clone, segment_id: str) -> None:
    """Delete a segment's failures in the bucket: it is tried again."""
    clone.objects.remove([name for name in clone.objects.etags(f"attempts/{segment_id}") if _is_failure(name)])


def segments_begun(store: Store) -> list[str]:
    """Ids of the segments that have attempts here."""
    folder = store.root / "attempts"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def bucket_name(attempt: Attempt) -> str:
    """Of an attempt in the bucket: two machines may have one name and the same process ids."""
    if not attempt.shared_name.exists():
        attempt.shared_name.write_text(f"{attempt.name}-{secrets.token_hex(4)}")
    return attempt.shared_name.read_text()


def _known_name(attempt: Attempt) -> str:
    return attempt.shared_name.read_text() if attempt.shared_name.exists() else attempt.name


def _is_failure(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 4 and parts[-1] == FAILURE and all(map(is_plain_name, parts))


def _says_why(content: bytes) -> bool:
    try:
        document = json.loads(content)
    except ValueError:
        return False
    return isinstance(document, dict) and isinstance(document.get("reason"), str)
