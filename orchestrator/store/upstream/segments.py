"""Segments to and from the bucket: published ones, and the checkpoints of attempts; see `sync` for what lies where.

Names of objects are the sha256 of their bytes, so a late or repeated upload can change nothing that was verified, and
every byte that is read is compared with its name before it is used.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mor_core.files import file_sha256, is_plain_name, rename_unless_there, write_bytes
from mor_core.training.manifest import CheckpointError, verify_checkpoint
from orchestrator.planning.identity import Segment, trunk_id
from orchestrator.store.attempts import SCRATCH, STATE_FILES, Attempt, checkpoint_name, checkpoint_step
from orchestrator.store.published import (
    CHECKPOINT,
    METRICS,
    RESULT,
    SEQUENCE_LOSSES,
    SPEC,
    PublishedSegment,
    ResultError,
    SegmentResult,
    StoreError,
    file_sum,
    named_sums,
    parse_result,
    read_spec,
    result_content,
)
from orchestrator.store.store import hints
from orchestrator.store.upstream.clone import Clone
from orchestrator.store.upstream.failures import bucket_name
from orchestrator.store.upstream.objects import BucketUnreachable, ObjectStore

PUBLISH_PATIENCE_SECONDS = 300.0
"""How long a finished segment waits for a server that does not answer; its work would be lost otherwise."""

KEEP_PATIENCE_SECONDS = 5.0
"""The same for a checkpoint: training goes on without it, and the next one is uploaded again."""

KEPT_CHECKPOINTS = 2
TRIES = 3
"""Downloads of an object whose bytes are not what its name says."""

Files = dict[str, dict[str, Any]]
"""Path in a folder -> sha256 and size of its file."""


@dataclass(frozen=True, kw_only=True)
class BucketSegments:
    """The segments of a bucket, from one machine's side."""

    clone: Clone
    """The bucket and the local folder."""

    def fetch(self, segment: Segment) -> None:
        """Bring what an attempt at the segment needs: its result where there is one, else the checkpoints that it may
        start from, of its trunk, of what it needs and of attempts elsewhere.

        Raises StoreError where something published cannot be read.
        """
        self.fetch_results([segment.id])
        if self.clone.store.is_done(segment.id):
            return
        self.fetch_results(segment.needs)
        reached = self._fetch_attempt(segment)
        if segment.kind == "stable":
            self._fetch_trunk_state(segment, after=reached)
        else:
            for need in segment.needs:
                self.fetch_checkpoint(need)

    def fetch_results(self, segment_ids: Sequence[str]) -> None:
        """Bring published segments, without their checkpoints. Those that are not published are passed over."""
        missing = [name for name in segment_ids if not self.clone.store.is_done(name)]
        result_objects = self.clone.objects.read_all(_result_name(name) for name in missing)
        results = {name: result_objects[key] for name in missing if (key := _result_name(name)) in result_objects}
        files = {name: small_files(name, result) for name, result in results.items()}
        file_names = {_file(f"segments/{name}", digest) for name in files for digest in files[name].values()}
        contents = self.clone.objects.read_all(sorted(file_names))
        for name, result in results.items():
            with self._incoming(name) as incoming:
                for path, digest in files[name].items():
                    key = _file(f"segments/{name}", digest)
                    data = contents.get(key)
                    if data is None or hashlib.sha256(data).hexdigest() != digest:
                        self._download(key, digest, incoming / path)
                    else:
                        (incoming / path).write_bytes(data)
                (incoming / RESULT).write_bytes(result)
                self._appear(name, incoming)

    def fetch_checkpoint(self, segment_id: str) -> None:
        """Bring the checkpoint of a published segment, verified. Nothing where it is here, or where it has none."""
        target = self.clone.store.checkpoint_folder(segment_id)
        result = self.clone.store.result(segment_id)
        if target.exists() or result is None:
            return
        files = _checked(segment_id, {path: file.sha256 for path, file in result.files.items()})
        digests = {path: digest for path, digest in files.items() if path.startswith(f"{CHECKPOINT}/")}
        if not digests:
            return
        with self._incoming(segment_id) as incoming:
            (incoming / CHECKPOINT).mkdir()
            for path, digest in digests.items():
                self._download(_file(f"segments/{segment_id}", digest), digest, incoming / path)
            if not target.exists():
                rename_unless_there(incoming / CHECKPOINT, target)

    def publish(self, segment: Segment, folder: Path) -> bool:
        """Upload a finished segment's folder, then create its result.json in the bucket. False where another attempt
        was first: nothing that is published has changed, and its result is here.

        Raises BucketUnreachable where the server does not come back in time.
        """
        patient = replace(self.clone.objects, patience=PUBLISH_PATIENCE_SECONDS)
        top = f"segments/{segment.id}"
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RESULT)
        files = {path.relative_to(folder).as_posix(): path for path in paths}
        sums = {name: vars(file_sum(path)) for name, path in files.items()}
        for name, path in files.items():
            patient.upload(path, _file(top, sums[name]["sha256"]))
        content = result_content(json.loads((folder / RESULT).read_bytes()) | {"files": sums})
        for hint, text in hints(segment, parse_result(content, segment.id)).items():
            patient.replace(hint, text.encode())
        write_bytes(folder / RESULT, content)
        name = _result_name(segment.id)
        if not patient.create(name, content) and patient.read(name) != content:
            self.fetch_results([segment.id])
            return False
        return True

    def forget_attempts(self, segment_id: str) -> None:
        """Delete what attempts at a published segment uploaded. A late attempt may add to it; nothing reads that."""
        self.clone.objects.remove(self.clone.objects.etags(f"attempts/{segment_id}"))

    def keep(self, segment: Segment, attempt: Attempt, step: int) -> None:
        """Upload an attempt's checkpoint with the curve that leads to it, so that another machine can go on there.

        Raises BucketUnreachable.
        """
        brief = replace(self.clone.objects, patience=KEEP_PATIENCE_SECONDS)
        top = f"attempts/{segment.id}/{bucket_name(attempt)}"
        checkpoint = attempt.checkpoint(step)
        files = {f"{checkpoint.name}/{path.name}": path for path in sorted(checkpoint.iterdir())}
        files |= {name: attempt.folder / name for name in STATE_FILES}
        sums: Files = {}
        for name, path in files.items():
            data = path.read_bytes() if path == attempt.metrics else None  # It grows; the others do not change.
            digest = file_sha256(path) if data is None else hashlib.sha256(data).hexdigest()
            sums[name] = {"sha256": digest, "size": path.stat().st_size if data is None else len(data)}
            _ = brief.upload(path, _file(top, digest)) if data is None else brief.create(_file(top, digest), data)
        brief.create(f"{top}/{checkpoint.name}.json", json.dumps({"step": step, "files": sums}).encode())
        self._drop_old(top, brief)

    def last_uploaded_step(self, segment_id: str) -> int:
        """The furthest step of which an attempt of any machine has uploaded a checkpoint; 0 without one."""
        return max((step for step, _ in self._uploaded(segment_id)), default=0)

    def _uploaded(self, segment_id: str) -> list[tuple[int, str]]:
        """(step, name of its list of files) of the checkpoints that attempts uploaded, the latest step first."""
        checkpoints = []
        for name in self.clone.objects.etags(f"attempts/{segment_id}"):
            parts = name.split("/")
            step = _listed_step(name)
            if step is not None and len(parts) == 4 and is_plain_name(parts[2]):
                checkpoints.append((step, name))
        return sorted(checkpoints, reverse=True)

    def _fetch_attempt(self, segment: Segment) -> int:
        """Bring the furthest uploaded checkpoint that verifies, unless one as far is here; the step that is reached."""
        reached = self.clone.store.attempts(segment.id).last_step()
        for step, name in self._uploaded(segment.id):
            if step <= reached or step >= segment.stop_step:
                continue
            attempt = self.clone.store.attempts(segment.id).named(name.split("/")[2])
            if attempt.corrupt_checkpoint(step).exists():
                continue  # It was brought before, and set aside.
            try:
                self._bring_attempt(name, segment.id, attempt, step)
            except (StoreError, CheckpointError, ValueError, KeyError, TypeError) as error:
                if isinstance(error, BucketUnreachable):
                    raise
                continue  # A torn or damaged one is as good as none: the one before it is tried.
            return step
        return reached

    def _bring_attempt(self, name: str, segment_id: str, attempt: Attempt, step: int) -> None:
        listing = self.clone.objects.read(name)
        files = json.loads(listing or b"{}")["files"]
        checkpoint = checkpoint_name(step)
        with self._incoming(segment_id) as incoming:
            (incoming / checkpoint).mkdir()
            for path, part in files.items():
                if not _is_inside(path, STATE_FILES, checkpoint):
                    raise StoreError(
                        f"{self.clone.objects.url}/{name} names {path!r}, which is no file of a checkpoint"
                    )
                self._download(_file(str(Path(name).parent), part["sha256"]), part["sha256"], incoming / path)
            verify_checkpoint(incoming / checkpoint)
            attempt.folder.mkdir(parents=True, exist_ok=True)
            for file in STATE_FILES:
                (incoming / file).replace(attempt.folder / file)
            (incoming / checkpoint).rename(attempt.checkpoint(step))

    def _fetch_trunk_state(self, segment: Segment, after: int) -> None:
        """Bring the furthest published state of the trunk before the segment's end, where it is beyond `after`."""
        hints = self.clone.objects.etags(f"trunks/{trunk_id(segment.trunk)}")
        steps = sorted(
            (int(name.rsplit("/", 1)[1]) for name in hints if name.rsplit("/", 1)[1].isdecimal()), reverse=True
        )
        for step in steps:
            if after < step < segment.stop_step:
                hint = self.clone.objects.read(f"trunks/{trunk_id(segment.trunk)}/{step}")
                segment_id = hint.decode(errors="replace") if hint else ""
                if re.fullmatch("[0-9a-f]{64}", segment_id):
                    self.fetch_results([segment_id])
                    self.fetch_checkpoint(segment_id)
                    if self.clone.store.checkpoint_folder(segment_id).is_dir():
                        return

    def _download(self, name: str, digest: str, path: Path) -> None:
        """An object whose bytes have the sha256 that is asked for. Raises StoreError where they do not."""
        for _ in range(TRIES):
            self.clone.objects.download(name, path)
            if file_sha256(path) == digest:
                return
        folder = name.partition("/files/")[0]
        raise StoreError(
            f"{self.clone.objects.url}/{name} has other bytes than its name says: delete {folder}/ in the bucket and "
            "run the same command again; only this segment is computed anew"
        )

    def _appear(self, segment_id: str, folder: Path) -> None:
        """A fetched segment takes its place, with the hints that lead to it, unless another process was first."""
        files = PublishedSegment(folder=folder)
        self.clone.store.hint(read_spec(files.spec), _readable(segment_id, files.result.read_bytes()))
        target = self.clone.store.segment_folder(segment_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        rename_unless_there(folder, target)

    @contextlib.contextmanager
    def _incoming(self, segment_id: str) -> Iterator[Path]:
        """A private folder on the disk of the local results, for the length of the body."""
        name = f"incoming-{segment_id[:16]}-{os.getpid()}-{secrets.token_hex(4)}"
        folder = self.clone.store.root / SCRATCH / name
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _drop_old(self, top: str, objects: ObjectStore) -> None:
        """Delete this attempt's checkpoints but the latest, and the files that none of those names."""
        names = objects.etags(top)
        lists = sorted((step, name) for name in names if (step := _listed_step(name)) is not None)
        recent = [name for _, name in lists[-KEPT_CHECKPOINTS:]]
        listings = objects.read_all(recent)
        if len(listings) == len(recent):
            digests = {part["sha256"] for data in listings.values() for part in json.loads(data)["files"].values()}
            garbage = [name for _, name in lists[:-KEPT_CHECKPOINTS]]
            garbage += [name for name in names if "/files/" in name and name.rsplit("/", 1)[1] not in digests]
            objects.remove(garbage)


def small_files(segment_id: str, content: bytes) -> dict[str, str]:
    """Path -> sha256 of the files of a published segment beside its checkpoint. Raises StoreError where its result
    names none."""
    try:
        digests = named_sums(content)
    except ResultError as error:
        raise StoreError(f"{_result_name(segment_id)} in the bucket {error}") from error
    return {path: digest for path, digest in _checked(segment_id, digests).items() if "/" not in path}


def _checked(segment_id: str, files: dict[str, str]) -> dict[str, str]:
    """Path -> sha256 of a segment's files. Raises StoreError for what no segment has."""
    if SPEC not in files or not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in files.values()):
        raise StoreError(f"{_result_name(segment_id)} in the bucket does not name its files")
    for path in files:
        if not _is_inside(path, (SPEC, METRICS, SEQUENCE_LOSSES), CHECKPOINT):
            raise StoreError(f"{_result_name(segment_id)} in the bucket names {path!r}, which is no file of it")
    return files


def _readable(segment_id: str, content: bytes) -> SegmentResult | None:
    """A result of the bucket; None for one that cannot be read, which every verb then says of this segment alone."""
    try:
        return parse_result(content, segment_id)
    except ResultError:
        return None


def _is_inside(path: str, files: Iterable[str], folder: str) -> bool:
    """Whether a path is one of the files, or a file directly in the folder: never a way out."""
    parent, _, name = path.rpartition("/")
    return path in files or (parent == folder and is_plain_name(name))


def _result_name(segment_id: str) -> str:
    return f"segments/{segment_id}/{RESULT}"


def _listed_step(name: str) -> int | None:
    """The step of which an object lists the files of an attempt's checkpoint; None for any other object."""
    stem, _, suffix = name.rsplit("/", 1)[1].rpartition(".")
    return checkpoint_step(stem) if suffix == "json" else None


def _file(top: str, digest: str) -> str:
    return f"{top}/files/{digest}"
