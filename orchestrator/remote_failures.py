"""Why segments failed, for machines that did not compute them; see `remote_results` for what lies where.

    attempts/<id>/<attempt>/failure.json   created once, by the machine whose newest attempt at the segment failed

It is deleted when the segment is tried again, published, or cleared by `retry`, on whichever machine. The local copy
then becomes failure.retried.json, as `retry` leaves it, so that every machine sees the segment as pending again.
"""

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mor_core.plain_names import is_plain_name
from orchestrator.remote_results import RemotePart
from orchestrator.store import iterate_attempts, newest_attempt

FAILURE, RETRIED = "failure.json", "failure.retried.json"
IN_BUCKET = "failure.shared"
"""An empty file beside a failure that the bucket has."""

ATTEMPT_NAME = "remote-name.txt"
"""In an attempt's folder: its name in the bucket."""


@dataclass(frozen=True, kw_only=True)
class RemoteFailures(RemotePart):
    """The failures of a bucket, from one machine's side. Every method raises RemoteRefused and RemoteUnreachable."""

    def upload(self, segment_ids: Iterable[str]) -> None:
        """Create the failures of newest attempts that the bucket does not have yet."""
        for segment_id in segment_ids:
            attempt = newest_attempt(self.store, segment_id)
            if attempt is None or self.store.is_done(segment_id):
                continue
            if (attempt / FAILURE).exists() and not (attempt / IN_BUCKET).exists():
                told = (attempt / FAILURE).read_bytes()
                self.objects.create(f"attempts/{segment_id}/{remote_name(attempt)}/{FAILURE}", told)
                (attempt / IN_BUCKET).touch()

    def fetch(self) -> None:
        """Bring the failures that are not here, and take back those that are no longer in the bucket."""
        there = {name for name in self.objects.etags("attempts") if _is_failure(name)}
        known: set[str] = set()
        for segment_id in self.begun():
            for attempt in iterate_attempts(self.store, segment_id):
                known.add(f"attempts/{segment_id}/{_known_name(attempt)}/{FAILURE}")
            newest = newest_attempt(self.store, segment_id)
            if newest is not None and (newest / IN_BUCKET).exists() and (newest / FAILURE).exists():
                name = f"attempts/{segment_id}/{_known_name(newest)}/{FAILURE}"
                if name not in there:
                    (newest / FAILURE).replace(newest / RETRIED)
        for name, told in self.objects.read_all(sorted(there - known)).items():
            if _says_why(told):
                _, segment_id, attempt_name, _ = name.split("/")
                attempt = self.store.attempts_folder(segment_id) / attempt_name
                attempt.mkdir(parents=True, exist_ok=True)
                (attempt / ATTEMPT_NAME).write_text(attempt_name)
                (attempt / IN_BUCKET).touch()
                temporary = attempt / f"{FAILURE}.writing"
                temporary.write_bytes(told)
                temporary.replace(attempt / FAILURE)

    def withdraw(self, segment_id: str) -> None:
        """Delete a segment's failures in the bucket: it is tried again."""
        self.objects.remove([name for name in self.objects.etags(f"attempts/{segment_id}") if _is_failure(name)])

    def begun(self) -> list[str]:
        """Ids of the segments that have attempts here."""
        folder = self.store.root / "attempts"
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


def _says_why(told: bytes) -> bool:
    try:
        document = json.loads(told)
    except ValueError:
        return False
    return isinstance(document, dict) and isinstance(document.get("reason"), str)
