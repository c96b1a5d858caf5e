"""Why segments failed, for machines that did not compute them; see `sync` for what lies where.

    attempts/<id>/<attempt>/failure.json   created once, by the machine whose newest attempt at the segment failed

It is deleted when the segment is tried again, published, or cleared by `retry`, on whichever machine. The local copy
then becomes failure.retried.json, as `retry` leaves it, so that every machine sees the segment as pending again.

Whatever asks the bucket raises RemoteRefused and RemoteUnreachable.
"""

import json
import secrets
from collections.abc import Iterable
from pathlib import Path

from mor_core.files import is_plain_name
from orchestrator.store.store import Store
from orchestrator.store.upstream.address import Remote

FAILURE, RETRIED = "failure.json", "failure.retried.json"
IN_BUCKET = "failure.shared"
"""An empty file beside a failure that the bucket has."""

ATTEMPT_NAME = "remote-name.txt"
"""In an attempt's folder: its name in the bucket."""


def upload_failures(remote: Remote, segment_ids: Iterable[str]) -> None:
    """Create the failures of newest attempts that the bucket does not have yet."""
    for segment_id in segment_ids:
        attempt = remote.store.attempts(segment_id).newest()
        if attempt is None or remote.store.is_done(segment_id):
            continue
        if (attempt / FAILURE).exists() and not (attempt / IN_BUCKET).exists():
            content = (attempt / FAILURE).read_bytes()
            remote.objects.create(f"attempts/{segment_id}/{remote_name(attempt)}/{FAILURE}", content)
            (attempt / IN_BUCKET).touch()


def fetch_failures(remote: Remote) -> None:
    """Bring the failures that are not here, and take back those that are no longer in the bucket."""
    in_bucket = {name for name in remote.objects.etags("attempts") if _is_failure(name)}
    in_folder: set[str] = set()
    for segment_id in segments_begun(remote.store):
        for attempt in remote.store.attempts(segment_id):
            in_folder.add(f"attempts/{segment_id}/{_known_name(attempt)}/{FAILURE}")
        newest = remote.store.attempts(segment_id).newest()
        if newest is not None and (newest / IN_BUCKET).exists() and (newest / FAILURE).exists():
            name = f"attempts/{segment_id}/{_known_name(newest)}/{FAILURE}"
            if name not in in_bucket:
                (newest / FAILURE).replace(newest / RETRIED)
    for name, content in remote.objects.read_all(sorted(in_bucket - in_folder)).items():
        if _says_why(content):
            _, segment_id, attempt_name, _ = name.split("/")
            attempt = remote.store.attempts_folder(segment_id) / attempt_name
            attempt.mkdir(parents=True, exist_ok=True)
            (attempt / ATTEMPT_NAME).write_text(attempt_name)
            (attempt / IN_BUCKET).touch()
            temporary = attempt / f"{FAILURE}.writing"
            temporary.write_bytes(content)
            temporary.replace(attempt / FAILURE)


def withdraw_failures(remote: Remote, segment_id: str) -> None:
    """Delete a segment's failures in the bucket: it is tried again."""
    remote.objects.remove([name for name in remote.objects.etags(f"attempts/{segment_id}") if _is_failure(name)])


def segments_begun(store: Store) -> list[str]:
    """Ids of the segments that have attempts here."""
    folder = store.root / "attempts"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def remote_name(attempt: Path) -> str:
    """Of an attempt in the bucket: two machines may have one name and the same process ids."""
    path = attempt / ATTEMPT_NAME
    if not path.exists():
        path.write_text(f"{attempt.name}-{secrets.token_hex(4)}")
    return path.read_text()


def _known_name(attempt: Path) -> str:
    path = attempt / ATTEMPT_NAME
    return path.read_text() if path.exists() else attempt.name


def _is_failure(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 4 and parts[-1] == FAILURE and all(map(is_plain_name, parts))


def _says_why(content: bytes) -> bool:
    try:
        document = json.loads(content)
    except ValueError:
        return False
    return isinstance(document, dict) and isinstance(document.get("reason"), str)
