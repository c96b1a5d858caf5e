"""Results on object storage: a local folder that every verb works in, and the bucket that holds the fact.

    s3://BUCKET/PREFIX/
      mor-sweep.json                                  proves that the server honours conditional creation
      segments/<id>/result.json                       created once and last: the result, and the sha256 of its files
      segments/<id>/files/<sha256>                    its spec, curve, sequence losses and checkpoint
      attempts/<id>/<attempt>/checkpoint-<step>.json  created last: the sha256 of the files of a checkpoint
      attempts/<id>/<attempt>/files/<sha256>
      attempts/<id>/<attempt>/failure.json            why the newest attempt failed, until the segment is tried again
      trunks/<trunk>/<step>  tasks/<weights>/<id>     hints, as on a disk
      sweeps/<name>/revisions/<number>.json           one plan each, created once
      sweeps/<name>/files/...                         tables, fits, figures: derived, the last writer wins
      sweeps/<name>/files/forecasts/<key>.json        created once

The local folder ("scratch") is laid out like any results folder. Segments are trained there and published to the bucket
first; published segments of others are fetched by their sha256 and kept as a cache, their checkpoints when something
starts from them. Deleting it costs at most one checkpoint interval of what runs.

The locks of the local folder keep two processes of one host from doing work twice. There is none in the bucket:
two hosts may train the same segment, and conditional creation of its result.json decides whose counts.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from mor_core.files import file_sha256, is_plain_name, replace_text, replacing
from orchestrator.store.published import RESULT
from orchestrator.store.store import FORECASTS
from orchestrator.store.sweep_document import SCHEMA as SWEEP_SCHEMA
from orchestrator.store.sweep_document import read_document, sweep_names
from orchestrator.store.upstream.clone import Clone
from orchestrator.store.upstream.failures import fetch_failures, segments_begun, upload_failures
from orchestrator.store.upstream.objects import BucketRefused
from orchestrator.store.upstream.segments import BucketSegments

SYNCED = "synced.json"
MARKER = "mor-sweep.json"
_LOCAL_FILES = {"sweep.json", "mlflow.db", "mirror.json", "mirror.log", "ui.log"}
"""Of a sweep's folder: what has another form in the bucket, or belongs to one machine."""

_LOCAL_FOLDERS = {"drivers", "stop", "artifacts"}


def pull(clone: Clone) -> None:
    """Bring the local folder up to date: plans, tables, figures, and every published segment without its
    checkpoint."""
    with FileLock(clone.store.root / "sync.lock"):
        _pull_sweeps(clone)
        _pull_segments(clone)
        fetch_failures(clone)


def require_conditional_creation(clone: Clone) -> None:
    """Raises BucketRefused where the server overwrites an object that `create` must leave alone."""
    marker = json.dumps({"schema": "mor-sweep.remote/1"}).encode()
    if clone.objects.create(MARKER, marker) and clone.objects.create(MARKER, marker):
        raise BucketRefused(
            f"{clone.objects.url}: the server ignores conditional writes (If-None-Match), so two machines could "
            "overwrite each other's results: use AWS S3, or another server that has them"
        )


def push(clone: Clone) -> None:
    """Bring the bucket up to date with what verbs wrote into sweeps/ (tables, fits, figures, reports), and with
    failures that it has not been told."""
    with FileLock(clone.store.root / "sync.lock"):
        upload_failures(clone, segments_begun(clone.store))
        synced = _synced(clone)
        sent = {}
        for name, path in _sweep_files(clone):
            digest = file_sha256(path)
            if synced.get(name, {}).get("sha256") != digest and _sent(clone, name, path):
                sent[name] = digest
        if sent:
            etags = clone.objects.etags("sweeps")
            _remember(clone, synced | {name: _state(etags.get(name), digest) for name, digest in sent.items()})


def _sent(clone: Clone, name: str, path: Path) -> bool:
    """Upload a file. False where the bucket has another that stays: the next pull brings it."""
    content = path.read_bytes()
    if name.split("/")[3] == FORECASTS:
        return create_once(clone, name, content) == content
    clone.objects.replace(name, content)
    return True


def create_once(clone: Clone, name: str, content: bytes) -> bytes:
    """Create an object of the bucket. What counts: the bytes of another machine where it was first."""
    if clone.objects.create(name, content):
        return content
    earlier = clone.objects.read(name)
    return content if earlier is None else earlier


def push_revision(clone: Clone, name: str) -> bool:
    """Append a sweep's latest local plan revision to the bucket's. False where another machine has appended one of
    the same number meanwhile: pull, and plan anew."""
    document = read_document(clone.store.sweep_folder(name) / "sweep.json")
    assert document is not None
    number = len(document["revisions"])  # Those before it came from the bucket.
    revision = json.dumps(document["revisions"][-1], sort_keys=True).encode()
    object_name = _revision_name(name, number)
    return clone.objects.create(object_name, revision) or clone.objects.read(object_name) == revision


def pull_revisions(clone: Clone, name: str) -> None:
    """The bucket's plan revisions of one sweep, as its local sweep.json."""
    _write_document(clone, name, _revision_numbers(clone.objects.etags("sweeps")).get(name, []))


def _pull_sweeps(clone: Clone) -> None:
    etags, synced = clone.objects.etags("sweeps"), _synced(clone)
    for sweep, numbers in _revision_numbers(etags).items():
        _write_document(clone, sweep, numbers)
    places = {name: place for name in etags if (place := _sweep_file(name)) is not None}
    changed = [name for name in places if synced.get(name, {}).get("etag") != etags[name]]
    for name, data in clone.objects.read_all(changed).items():
        sweep, inside = places[name]
        path = clone.store.sweep_folder(sweep) / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
        synced[name] = _state(etags[name], hashlib.sha256(data).hexdigest())
    if changed:
        _remember(clone, synced)


def _pull_segments(clone: Clone) -> None:
    published = {name.split("/")[1] for name in clone.objects.etags("segments") if name.endswith(f"/{RESULT}")}
    missing = sorted(name for name in published if not clone.store.is_done(name))
    BucketSegments(clone=clone).fetch_results(missing)
    folder = clone.store.root / "segments"
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in published:  # Taken out of the bucket, by `retry` on another machine or by hand.
            aside = clone.store.root / "stale"
            aside.mkdir(exist_ok=True)
            path.rename(aside / f"{path.name}-{os.getpid()}-{os.urandom(4).hex()}")


def _revision_numbers(names: Iterable[str]) -> dict[str, list[int]]:
    """Sweep name -> numbers of its revisions among a bucket's objects, ascending."""
    numbers_of: dict[str, list[int]] = {}
    for name in names:
        parts = name.split("/")
        number = parts[-1].removesuffix(".json")
        if len(parts) == 4 and parts[2] == "revisions" and number.isdecimal() and is_plain_name(parts[1]):
            numbers_of.setdefault(parts[1], []).append(int(number))
    return {sweep: sorted(numbers) for sweep, numbers in numbers_of.items()}


def _write_document(clone: Clone, sweep: str, numbers: list[int]) -> None:
    """sweep.json of the bucket's revisions; of those that are here already none is read again."""
    path = clone.store.sweep_folder(sweep) / "sweep.json"
    local = read_document(path)
    if local is not None and numbers and len(local["revisions"]) == len(numbers):
        # The local document is the bucket's, with at most one revision of its own that was not uploaded.
        last = clone.objects.read(_revision_name(sweep, numbers[-1]))
        if last is not None and json.loads(last) == local["revisions"][-1]:
            return
    contents = clone.objects.read_all(_revision_name(sweep, number) for number in numbers)
    if contents:
        revisions = [json.loads(contents[_revision_name(sweep, number)]) for number in numbers]
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps({"schema": SWEEP_SCHEMA, "name": sweep, "revisions": revisions}))
        last = path.parent.parent / ".last"
        if not last.exists():
            replace_text(last, sweep)


def _sweep_files(clone: Clone) -> list[tuple[str, Path]]:
    """(name in the bucket, local path) of what verbs wrote of every sweep."""
    files = []
    for sweep in sweep_names(clone.store):
        folder = clone.store.sweep_folder(sweep)
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not path.is_symlink() and _is_shared(inside):
                files.append((f"sweeps/{sweep}/files/{inside.as_posix()}", path))
    return files


def _synced(clone: Clone) -> dict[str, dict[str, Any]]:
    try:
        return json.loads((clone.store.root / SYNCED).read_text())
    except (OSError, ValueError):
        return {}


def _remember(clone: Clone, synced: dict[str, dict[str, Any]]) -> None:
    replace_text(clone.store.root / SYNCED, json.dumps(synced))


def _state(etag: str | None, digest: str) -> dict[str, Any]:
    return {"etag": etag, "sha256": digest}


def _revision_name(sweep: str, number: int) -> str:
    return f"sweeps/{sweep}/revisions/{number}.json"


def _is_shared(inside: Path) -> bool:
    is_local = (
        inside.name in _LOCAL_FILES
        or inside.suffix in (".lock", ".writing", ".log")
        or inside.name.startswith((".", "mlflow.db"))
        or inside.parts[0] in _LOCAL_FOLDERS
    )
    return not is_local


def _sweep_file(name: str) -> tuple[str, Path] | None:
    """(sweep, path in its folder) that an object of the bucket stands for; None for any other object."""
    parts = name.split("/")
    if len(parts) < 4 or parts[2] != "files" or not all(map(is_plain_name, parts)):
        return None
    inside = Path(*parts[3:])
    return (parts[1], inside) if _is_shared(inside) else None
